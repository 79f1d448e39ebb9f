//! However it ends, the terminal is as it was.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::terminal::Terminal;

/// The main screen, and a cursor.
const CLEAN: (bool, bool) = (false, true);

#[test]
fn the_terminal_is_clean_after_each_end() {
    let terminal = Terminal::new(100, 24);
    let before = terminal.settings();
    let ends: [(&str, &dyn Fn(), u8); 6] = [
        ("q", &|| terminal.type_text("q"), 0),
        ("Ctrl-C", &|| terminal.keys(&["C-c"]), 0),
        ("SIGTERM", &|| terminal.signal(Signal::TERM), 130),
        ("SIGINT", &|| terminal.signal(Signal::INT), 130),
        ("SIGHUP", &|| terminal.signal(Signal::HUP), 130),
        ("SIGQUIT", &|| terminal.signal(Signal::QUIT), 130),
    ];
    for (name, end, code) in ends {
        terminal.start_top("");
        terminal.wait_for("no queue has jobs");
        assert_eq!(terminal.modes(), (true, false), "{name}");
        end();
        terminal.wait_for(&format!("code {code}"));
        assert_eq!(terminal.modes(), CLEAN, "{name}");
        assert_eq!(terminal.settings(), before, "{name}");
    }
}

#[test]
fn ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back() {
    let terminal = Terminal::new(100, 24);
    let before = terminal.settings();
    terminal.start_top("");
    terminal.wait_for("no queue has jobs");
    terminal.keys(&["C-z"]);
    terminal.wait_for("Stopped");
    assert_eq!(terminal.modes(), CLEAN);
    assert_eq!(terminal.settings(), before);
    terminal.type_line("fg; echo ended $?");
    terminal.wait_until("the screen without a cursor", |screen| {
        screen.contains("no queue has jobs") && terminal.modes() == (true, false)
    });
    terminal.type_text("?");
    terminal.wait_for("reverse the order");
    terminal.keys(&["C-c"]);
    terminal.wait_for("ended 0");
    assert_eq!(terminal.modes(), CLEAN);
    assert_eq!(terminal.settings(), before);
}

#[test]
fn it_goes_on_after_a_stop_from_outside() {
    let terminal = Terminal::new(100, 24);
    terminal.start_top("");
    terminal.wait_for("no queue has jobs");
    let top = terminal.top();
    terminal.signal(Signal::STOP);
    terminal.wait_for("Stopped");
    terminal.type_line("clear; fg; echo ended $?");
    terminal.wait_until("the screen", |screen| {
        screen.contains("no queue has jobs") && !screen.contains("ready>")
    });
    assert_eq!(terminal.top(), top);
    terminal.type_text("q");
    terminal.wait_for("ended 0");
    assert_eq!(terminal.modes(), CLEAN);
}

#[test]
fn it_ends_when_its_terminal_is_gone() {
    let terminal = Terminal::new(100, 24);
    // It does not hear of the end of its terminal by a signal.
    terminal.type_line("trap '' HUP");
    terminal.start_top("");
    terminal.wait_for("no queue has jobs");
    let top = terminal.top().as_raw_nonzero();
    drop(terminal);
    let is_there = || std::fs::exists(format!("/proc/{top}")).unwrap();
    let began = std::time::Instant::now();
    while is_there() {
        assert!(
            began.elapsed().as_secs() < 60,
            "it goes on without a terminal"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command
        .arg("top")
        .env(
            "BRIGADE_URL",
            format!("sqlite:{}", directory.path().join("jobs.db").display()),
        )
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("needs a terminal"), "{error}");
    assert!(error.contains("brigade queues --json"), "{error}");
    assert!(output.stdout.is_empty());
}
