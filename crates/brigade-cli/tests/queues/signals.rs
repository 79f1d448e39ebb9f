//! `work`: signals that reach more than the worker.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;

use super::desk::{Desk, Running, is_alive, wait_until, wait_until_gone};

/// Programs that a stop signal ends, each in its own way: killed by it, by an exit code as shells
/// have it, by one of its own.
const MORTAL: [&str; 3] = [
    r#"echo $$ > "$DESK/group"; exec sleep 1000"#,
    r#"trap 'exit 130' INT; trap 'exit 143' TERM; echo $$ > "$DESK/group"; while :; do sleep 0.01; done"#,
    r#"trap 'exit 3' INT TERM; echo $$ > "$DESK/group"; while :; do sleep 0.01; done"#,
];

#[test]
fn a_program_that_dies_of_the_signal_that_stops_its_worker_is_interrupted() {
    for script in MORTAL {
        for (signal, program_first) in [
            (Signal::TERM, true),
            (Signal::TERM, false),
            (Signal::INT, true),
        ] {
            let desk = Desk::new();
            let id = desk.push(&["q", "1"]);
            let worker = desk.start(&["work", "q", "--", "sh", "-c", script]);
            let program = desk.wait_for_group("group");
            // As systemd does it: each process of the unit, one after the other.
            if program_first {
                kill_process_group(program, signal).unwrap();
                worker.signal(signal);
            } else {
                worker.signal(signal);
                kill_process_group(program, signal).unwrap();
            }
            assert_eq!(worker.end(), Some(0), "{script}");
            let job = desk.job(&id);
            assert_eq!(
                (&job["state"], &job["failed"], &job["interrupted"]),
                (&json!("ready"), &json!(0), &json!(1)),
                "{script}"
            );
            let reason = job["history"][0]["reason"].as_str().unwrap();
            assert!(reason.starts_with("interrupted: "), "{reason}");
        }
    }
}

#[test]
fn a_program_that_fails_by_itself_while_its_worker_drains_has_failed() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let script =
        r#"echo $$ > "$DESK/group"; while [ ! -e "$DESK/go" ]; do sleep 0.01; done; exit 3"#;
    let mut worker = desk.start(&["work", "q", "--", "sh", "-c", script]);
    desk.wait_for_file("group");
    worker.signal(Signal::TERM);
    worker.wait_for_line("waiting for the end");
    fs::write(desk.path("go"), "").unwrap();
    assert_eq!(worker.end(), Some(0));
    assert_eq!(
        (&desk.job(&id)["state"], &desk.job(&id)["reason"]),
        (&json!("dead"), &json!("exit code 3"))
    );
}

#[test]
fn a_program_that_somebody_kills_by_itself_has_failed() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let _worker = desk.start(&["work", "q", "--", "sh", "-c", MORTAL[0]]);
    kill_process_group(desk.wait_for_group("group"), Signal::TERM).unwrap();
    wait_until("the dead letter", || desk.job(&id)["state"] == "dead");
    assert_eq!(
        (&desk.job(&id)["reason"], &desk.job(&id)["failed"]),
        (&json!("SIGTERM"), &json!(1))
    );
}

/// Starts a worker that leads a process group of its own, as a shell does.
fn start_group(desk: &Desk, arguments: &[&str]) -> (Running, Pid) {
    let mut command = desk.command(arguments);
    command.process_group(0);
    let worker = Desk::start_command(command);
    let group = worker.pid();
    (worker, group)
}

#[test]
fn a_signal_to_the_foreground_group_fails_no_program_whenever_it_comes() {
    for round in 0..brigade_testkit::count(6, 60) {
        let desk = Desk::new();
        let lines: String = (0..2_000).map(|n| format!("{n}\n")).collect();
        desk.run_with(&["push", "q", "-"], lines.as_bytes());
        let (worker, group) = start_group(
            &desk,
            &[
                "work",
                "q",
                "-j",
                "8",
                "--",
                "sh",
                "-c",
                r#"echo {} >> "$DESK/ran""#,
            ],
        );
        // Programs start all the time; the moment within a start is left to chance.
        wait_until("some programs", || {
            fs::read_to_string(desk.path("ran")).is_ok_and(|ran| ran.lines().count() > round)
        });
        kill_process_group(
            group,
            if round % 2 == 0 {
                Signal::INT
            } else {
                Signal::TERM
            },
        )
        .unwrap();
        assert_eq!(worker.end(), Some(0));
        let dead = desk.run(&["dead", "ls", "--json"]).documents();
        assert!(dead.is_empty(), "{dead:?}");
    }
}

#[test]
fn a_terminal_that_is_closed_drains_a_worker() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1", "--keep", "1h"]);
    let script = r#"echo $$ > "$DESK/group"; while [ ! -e "$DESK/go" ]; do sleep 0.01; done"#;
    let mut worker = desk.start(&["work", "q", "--", "sh", "-c", script]);
    desk.wait_for_file("group");
    worker.signal(Signal::HUP);
    worker.wait_for_line("waiting for the end");
    // systemd sends it after another signal: that is no second request.
    worker.signal(Signal::HUP);
    fs::write(desk.path("go"), "").unwrap();
    assert_eq!(worker.end(), Some(0));
    assert_eq!(desk.job(&id)["state"], "done");
}

#[test]
fn nothing_that_is_lost_on_standard_error_ends_a_worker() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1", "--keep", "1h"]);
    let script = r#"echo $$ > "$DESK/group"; while [ ! -e "$DESK/go" ]; do sleep 0.01; done"#;
    let mut command = desk.command(&["work", "q", "--", "sh", "-c", script]);
    let mut worker = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(worker.stderr.take());
    desk.wait_for_file("group");
    kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
    fs::write(desk.path("go"), "").unwrap();
    assert_eq!(worker.wait().unwrap().code(), Some(0));
    assert_eq!(desk.job(&id)["state"], "done");
}

#[test]
fn a_signal_to_the_whole_unit_leaves_its_guard_on_guard() {
    let desk = Desk::new();
    desk.push(&["q", "1"]);
    let script = r#"trap '' INT TERM HUP; sleep 1000 & echo $$ > "$DESK/group"; wait"#;
    let mut worker = desk.start(&["work", "q", "--", "sh", "-c", script]);
    let program = desk.wait_for_group("group");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(worker.guard(), signal).unwrap();
    }
    worker.signal(Signal::TERM);
    worker.wait_for_line("waiting for the end");
    assert!(is_alive(program));
    worker.signal(Signal::KILL);
    worker.end();
    wait_until_gone(program);
}
