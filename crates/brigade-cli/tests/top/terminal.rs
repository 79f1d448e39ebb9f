//! A terminal of a test: a shell in a tmux server and a directory of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const BRIGADE: &str = env!("CARGO_BIN_EXE_brigade");

pub(crate) struct Terminal {
    directory: TempDir,
    url: String,
}

impl Terminal {
    /// A terminal of this size, on an SQLite file of its own.
    pub(crate) fn new(width: u16, height: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
        Self::start(directory, url, width, height)
    }

    /// The same on this broker.
    pub(crate) fn on(url: String, width: u16, height: u16) -> Self {
        Self::start(tempfile::tempdir().unwrap(), url, width, height)
    }

    fn start(directory: TempDir, url: String, width: u16, height: u16) -> Self {
        let terminal = Self { directory, url };
        let (width, height) = (width.to_string(), height.to_string());
        let shell = "exec bash --norc --noprofile -i";
        let size = ["-x", &width, "-y", &height];
        let directory = terminal.path("");
        let place = ["-c", directory.to_str().unwrap()];
        let session = [&["new-session", "-d"][..], &size, &place, &[shell]];
        terminal.tmux(&session.concat());
        // The prompt, at which keys are taken.
        terminal.type_line("PS1='ready> '; clear");
        terminal.wait_for("ready>");
        terminal
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = self.tmux_output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn tmux_output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(self.path("tmux"))
            .args(["-f", "/dev/null", "-u"])
            .args(arguments)
            .env("BRIGADE_URL", &self.url)
            .env("BRIGADE", BRIGADE)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .env_remove("NO_COLOR");
        let output = command.output();
        output.expect("tmux is installed: apt-get install tmux")
    }

    /// Has each job of a queue run by a program that fails.
    pub(crate) fn fail_all(&self, queue: &str, script: &str) {
        let mut command = Command::new(BRIGADE);
        command
            .args(["work", queue, "--until-empty", "--", "sh", "-c", script])
            .env("BRIGADE_URL", &self.url);
        // What it ends with where jobs became dead letters.
        assert_eq!(command.output().unwrap().status.code(), Some(1));
    }

    /// Runs a command on the same broker; what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(BRIGADE);
        let output = command
            .args(arguments)
            .env("BRIGADE_URL", &self.url)
            .output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Sends keys, by their names in tmux.
    pub(crate) fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types text as it is.
    pub(crate) fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    pub(crate) fn type_line(&self, line: &str) {
        self.type_text(line);
        self.keys(&["Enter"]);
    }

    /// What is on the screen.
    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// What is on the screen, with its colours.
    pub(crate) fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    pub(crate) fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-x", &width, "-y", &height]);
    }

    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_until(text, |screen| screen.contains(text));
    }

    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return;
            }
            assert!(Instant::now() < deadline, "never came: {what}\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the other screen is shown, and whether the cursor is.
    pub(crate) fn modes(&self) -> (bool, bool) {
        let modes = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        let (alternate, cursor) = modes.trim().split_once(' ').unwrap();
        (alternate == "1", cursor == "1")
    }

    /// The settings of the terminal, as the shell reads them.
    pub(crate) fn settings(&self) -> String {
        let path = self.path("settings");
        fs::remove_file(&path).ok();
        self.type_line(&format!(
            "stty -a > {0}.new; mv {0}.new {0}",
            path.display()
        ));
        self.wait_until("the settings", |_| path.exists());
        fs::read_to_string(path).unwrap()
    }

    /// Starts `brigade top`, whose exit code is printed in the end, and waits for its screen.
    pub(crate) fn start_top(&self, options: &str) {
        self.type_line(&format!("clear; \"$BRIGADE\" top {options}; echo code $?"));
        self.wait_for("brigade top");
    }

    /// The process of `brigade top`: the child of the shell.
    pub(crate) fn top(&self) -> Pid {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.top(), signal).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended with its shell.
        drop(self.tmux_output(&["kill-server"]));
    }
}
