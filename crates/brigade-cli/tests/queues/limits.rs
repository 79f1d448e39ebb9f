//! `work` with limits, and what leaves the group of a program.

use super::desk::{Desk, wait_until};

/// The reason of the job of a program that was run with these options.
fn reason(options: &[&str], script: &str) -> String {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let mut arguments = vec!["work", "q", "--until-empty", "--kill-after", "100ms"];
    arguments.extend(options);
    arguments.extend(["--", "sh", "-c", script]);
    let worked = desk.run(&arguments);
    assert_eq!(worked.code, Some(1), "{}", worked.stderr);
    desk.job(&id)["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_program_over_its_memory_limit_has_failed_with_that_reason() {
    let hogs = [
        "exec tail /dev/zero",
        "tail /dev/zero & tail /dev/zero & wait; sleep 100",
        "setsid sh -c 'setsid tail /dev/zero &'; sleep 100",
    ];
    for hog in hogs {
        let reason = reason(&["--memory", "32MiB"], hog);
        assert!(
            reason.starts_with("over a limit: memory limit 32 MiB, used "),
            "{hog}: {reason}"
        );
    }
}

#[test]
fn a_program_over_its_cpu_limit_has_failed_with_that_reason() {
    for hog in ["while :; do :; done", "sh -c 'while :; do :; done' & wait"] {
        let reason = reason(&["--cpu", "200ms"], hog);
        assert!(
            reason.starts_with("over a limit: CPU limit 200.0ms, used "),
            "{hog}: {reason}"
        );
    }
}

#[test]
fn a_program_with_too_many_processes_has_failed_with_that_reason() {
    let bomb = "i=0; while [ $i -lt 100 ]; do sleep 100 & i=$((i+1)); done; wait";
    let reason = reason(&["--processes", "8"], bomb);
    assert!(
        reason.starts_with("over a limit: limit of 8 processes and threads, had "),
        "{reason}"
    );
}

#[test]
fn a_program_that_writes_too_large_a_file_has_failed_with_that_reason() {
    let script = "exec head -c 100000 /dev/zero > \"$DESK/large\"";
    let reason = reason(&["--file-size", "4KiB"], script);
    assert!(
        reason.starts_with("over a limit: file size limit 4096 bytes"),
        "{reason}"
    );
}

#[test]
fn a_program_within_its_limits_is_done() {
    let desk = Desk::new();
    desk.push(&["q", "1"]);
    let limits = "--memory 256MiB --cpu 10s --files 32 --processes 16 --file-size 1MiB";
    let mut arguments = vec!["work", "q", "--until-empty"];
    arguments.extend(limits.split(' '));
    arguments.extend(["--", "sh", "-c", "sleep 0 & wait; echo 1 > \"$DESK/small\""]);
    desk.ok(&arguments);
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let desk = Desk::new();
    let limits = "--memory 256MiB --address-space 1MiB";
    let mut arguments = vec!["work", "q", "--until-empty"];
    arguments.extend(limits.split(' '));
    arguments.extend(["--", "true"]);
    let ran = desk.run(&arguments);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

#[test]
fn what_left_the_group_of_a_program_ends_with_it() {
    let desk = Desk::new();
    desk.push(&["q", "1"]);
    // A session of its own, and a parent that has ended.
    let script = "setsid sh -c 'sleep 1000 & echo $! > \"$DESK/left\"' & wait";
    desk.ok(&["work", "q", "--until-empty", "--", "sh", "-c", script]);
    let left: u32 = desk.wait_for_file("left").trim().parse().unwrap();
    wait_until("the end of what left", || {
        !brigade_testkit::facts::is_alive(left)
    });
}
