//! `work` is killed, or held up for longer than its leases.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::Signal;
use serde_json::json;

use super::desk::{Desk, wait_until, wait_until_gone, wait_until_more_than};

#[test]
fn programs_end_with_a_worker_that_is_killed() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let script = r#"sleep 1000 & echo $$ > "$DESK/group"; wait"#;
    let worker = desk.start(&["work", "q", "--", "sh", "-c", script]);
    let group = desk.wait_for_group("group");
    worker.signal(Signal::KILL);
    worker.end();
    wait_until_gone(group);
    assert_eq!(
        desk.ok(&["take", "q", "--wait", "60s"]),
        "1\n",
        "job {id} is handed out again"
    );
}

#[test]
fn programs_that_have_just_started_end_with_a_worker_that_is_killed() {
    for _ in 0..brigade_testkit::count(5, 100) {
        let desk = Desk::new();
        desk.run_with(&["push", "q", "-"], b"1\n2\n3\n4\n5\n6\n7\n8\n");
        let worker = desk.start(&[
            "work",
            "q",
            "-j",
            "8",
            "--",
            "sh",
            "-c",
            r#"echo $$ > "$DESK/$BRIGADE_ATTEMPT"; exec sleep 1000"#,
        ]);
        // The others start at this moment.
        desk.wait_for_group("1");
        worker.signal(Signal::KILL);
        worker.end();
        wait_until("the end of all programs", || !desk.is_in_use());
    }
}

#[test]
fn nothing_is_lost_when_a_worker_is_killed_in_the_middle() {
    let jobs = u32::try_from(brigade_testkit::count(2_000, 100_000)).unwrap();
    let desk = Desk::new();
    let lines: String = (1..=jobs).map(|n| format!("{n}\n")).collect();
    assert_eq!(
        desk.run_with(&["push", "nums", "-"], lines.as_bytes())
            .stdout,
        format!("{jobs}\n")
    );
    let arguments = [
        "work",
        "nums",
        "-j",
        "2",
        "--until-empty",
        "--",
        "sh",
        "-c",
        r#"echo {} >> "$DESK/ran""#,
    ];
    let ran = || fs::read_to_string(desk.path("ran")).unwrap_or_default();
    for kill_at in [300, 900] {
        let worker = desk.start(&arguments);
        wait_until_more_than(kill_at, "the next job", || ran().lines().count());
        worker.signal(Signal::KILL);
        assert_eq!(worker.end(), None);
    }
    desk.ok(&arguments);
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for line in ran().lines() {
        *counts.entry(line.parse().unwrap()).or_default() += 1;
    }
    assert!(
        counts.keys().copied().eq(1..=jobs),
        "lost: {:?}",
        (1..=jobs)
            .filter(|n| !counts.contains_key(n))
            .collect::<Vec<_>>()
    );
    let repeated: u32 = counts.values().map(|count| count - 1).sum();
    assert!(
        repeated <= 4,
        "two kills of two programs each explain four repeats, not {repeated}"
    );
    assert!(desk.ok(&["queues"]).is_empty());
}

#[test]
fn a_worker_that_lost_its_lease_kills_its_program() {
    let desk = Desk::new();
    desk.push(&["q", "1"]);
    let script = r#"echo $$ > "$DESK/group"; exec sleep 1000"#;
    let mut worker = desk.start(&[
        "work",
        "q",
        "--lease",
        "1s",
        "--kill-after",
        "0s",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let group = desk.wait_for_group("group");
    worker.signal(Signal::STOP);
    assert_eq!(
        desk.ok(&["take", "q", "--wait", "60s"]),
        "1\n",
        "its lease runs out"
    );
    worker.signal(Signal::CONT);
    worker.wait_for_line("lost");
    wait_until_gone(group);
    assert_eq!(
        desk.run(&["queues", "--json"]).documents(),
        [json!(null); 0]
    );
}
