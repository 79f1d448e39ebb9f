//! A panic on a prepared terminal: this test again as a child, on a terminal of tmux.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Screen;

/// Set for the child.
const CHILD: &str = "BRIGADE_TEST_PANIC_ON_SCREEN";
/// The name of the test, for the child.
const NAME: &str = "commands::top::screen::tests::a_panic_of_any_thread_puts_the_terminal_back";

/// A tmux server, which ends with the test.
struct Tmux<'a>(&'a Path);

impl Tmux<'_> {
    fn run(&self, arguments: &[&str]) -> String {
        #[expect(clippy::disallowed_methods, reason = "a test starts programs itself")]
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.0.join("tmux"));
        command.args(["-f", "/dev/null", "-u"]).args(arguments);
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        let output = command.output();
        let output = output.expect("tmux is installed: apt-get install tmux");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

fn panic_on_a_screen() {
    let mut screen = Screen::enter().unwrap();
    screen.draw(|_| {}).unwrap();
    let other = std::thread::Builder::new().spawn(|| panic!("the reader has a bug"));
    // The panic ends the process before this returns.
    other.unwrap().join().ok();
}

#[test]
fn a_panic_of_any_thread_puts_the_terminal_back() {
    if std::env::var_os(CHILD).is_some() {
        return panic_on_a_screen();
    }
    let directory = tempfile::tempdir().unwrap();
    let tmux = Tmux(directory.path());
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "cd {directory}; stty -a > before; {CHILD}=1 {program} --exact {NAME} --nocapture; \
            echo ended with $?; stty -a > after; tmux -S tmux wait-for -S ended; exec cat",
        directory = directory.path().display(),
        program = program.display(),
    );
    tmux.run(&["new-session", "-d", "-x", "100", "-y", "24", &script]);
    tmux.run(&["wait-for", "ended"]);
    let shown = tmux.run(&["capture-pane", "-p"]);
    assert!(shown.contains("the reader has a bug"), "{shown}");
    assert!(shown.contains("ended with 101"), "{shown}");
    // The main screen, and a cursor.
    let modes = tmux.run(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
    assert_eq!(modes, "0 1", "{shown}");
    let settings = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(settings("before"), settings("after"));
}
