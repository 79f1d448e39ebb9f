//! `work`: programs as workers.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::desk::{Desk, exists, is_alive, wait_until, wait_until_gone};

#[test]
fn the_payload_comes_on_standard_input_and_in_the_arguments() {
    let desk = Desk::new();
    let payload = r#"{"name": "a \"b\" $HOME", "n": 1.50, "list": [1]}"#;
    let id = desk.push(&["q", payload, "--keep", "1h"]);
    let script = r#"read -r line; printf '%s|' "$line" "$@" "$BRIGADE_JOB" "$BRIGADE_QUEUE" "$BRIGADE_ATTEMPT""#;
    let worked = desk.run(&[
        "work",
        "q",
        "--until-empty",
        "--",
        "sh",
        "-c",
        script,
        "_",
        "{name}",
        "<{n}>",
        "{list}",
        "{}",
        "{{}}",
        "${n}",
    ]);
    let expected = format!(r#"{payload}|a "b" $HOME|<1.50>|[1]|{payload}|{{}}|${{n}}|{id}|q|1|"#);
    assert_eq!(
        (worked.code, &worked.stdout),
        (Some(0), &expected),
        "{}",
        worked.stderr
    );
    assert_eq!(desk.job(&id)["result"], expected);
}

#[test]
fn the_exit_code_is_the_outcome() {
    let desk = Desk::new();
    let outcomes = [
        ("exit 0", "done"),
        ("exit 3", "failed"),
        ("kill -KILL $$", "failed"),
        ("exec sh -c 'kill -ABRT $$'", "failed"),
    ];
    for (script, outcome) in outcomes {
        desk.push(&["q", "1"]);
        let worked = desk.run(&[
            "work",
            "q",
            "--until-empty",
            "--json",
            "--",
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(worked.documents()[0]["outcome"], outcome, "{script}");
    }
    let reasons: Vec<Value> = desk
        .run(&["dead", "ls", "--json"])
        .documents()
        .iter()
        .map(|job| job["reason"].clone())
        .collect();
    assert_eq!(reasons, ["exit code 3", "SIGKILL", "SIGABRT"]);
    desk.push(&["true", "1"]);
    desk.ok(&["work", "true", "--until-empty", "--", "true"]);
    desk.push(&["false", "1"]);
    assert_eq!(
        desk.run(&["work", "false", "--until-empty", "--", "false"])
            .code,
        Some(1)
    );
    assert!(
        !desk.ok(&["queues"]).contains("true"),
        "what is done and not kept is gone"
    );
}

#[test]
fn standard_output_is_the_result_and_standard_error_the_reason() {
    let desk = Desk::new();
    let result = |script: &str| {
        let id = desk.push(&["q", "1", "--keep", "1h"]);
        desk.ok(&["work", "q", "--until-empty", "--", "sh", "-c", script]);
        desk.job(&id)["result"].clone()
    };
    assert_eq!(result("true"), Value::Null);
    assert_eq!(result(r#"echo '{"a": [1]}'"#), json!({"a": [1]}));
    assert_eq!(result("printf 'two\nlines\n'"), "two\nlines");
    let long = result("yes | head -c 1000000");
    assert_eq!(
        long.as_str().unwrap().len(),
        (64 << 10) - 1,
        "64 KiB, the last of them a line break"
    );

    let id = desk.push(&["q", "1"]);
    desk.run(&[
        "work",
        "q",
        "--until-empty",
        "--",
        "sh",
        "-c",
        "seq 100000 >&2; exit 9",
    ]);
    let reason = desk.job(&id)["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.starts_with("exit code 9: 9")
            && reason.ends_with("\n99999\n100000")
            && reason.len() < 5_000,
        "{reason}"
    );
}

#[test]
fn a_payload_that_fits_no_arguments_is_set_aside() {
    let desk = Desk::new();
    for payload in ["1", r#"{"b": 1}"#, r#"{"a": "x\u0000y"}"#] {
        desk.push(&["q", payload]);
    }
    desk.push(&["q", r#"{"a": "fine"}"#]);
    let long = format!(r#"{{"a": "{}"}}"#, "x".repeat(1 << 20));
    desk.run_with(&["push", "q"], long.as_bytes());
    let worked = desk.run(&["work", "q", "--until-empty", "--", "echo", "{a}"]);
    assert_eq!((worked.code, &*worked.stdout), (Some(1), "fine\n"));
    let dead = desk.run(&["dead", "ls", "--json"]).documents();
    let reasons: Vec<&str> = dead
        .iter()
        .map(|job| job["reason"].as_str().unwrap())
        .collect();
    assert!(
        matches!(reasons[..], [a, b, c, d]
        if a.contains("not a JSON object") && b.contains("lacks") && c.contains("NUL") && d.contains("too long")),
        "{reasons:?}"
    );
}

#[test]
fn a_program_that_is_not_there_costs_no_job_anything() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let worked = desk.run(&["work", "q", "--until-empty", "--", "/missing/program"]);
    assert!(
        worked.code == Some(1) && worked.stderr.contains("cannot start /missing/program"),
        "{worked:?}"
    );
    assert_eq!(
        (&desk.job(&id)["state"], &desk.job(&id)["failed"]),
        (&json!("ready"), &json!(0))
    );
}

#[test]
fn exit_code_75_passes_the_job_on() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1", "--keep", "1h"]);
    let script = r#"if mkdir "$DESK/seen"; then echo busy >&2; exit 75; fi"#;
    desk.ok(&["work", "q", "--until-empty", "--", "sh", "-c", script]);
    let job = desk.job(&id);
    assert_eq!(
        (&job["state"], &job["failed"], &job["history"][0]["kind"]),
        (&json!("done"), &json!(0), &json!("passed"))
    );
    assert_eq!(job["history"][0]["reason"], "exit code 75: busy");
}

#[test]
fn programs_run_side_by_side() {
    let desk = Desk::new();
    desk.run_with(&["push", "q"], b"1\n2\n3\n");
    // Each waits until all three are there.
    let script = r#"touch "$DESK/{}"; while [ ! -e "$DESK/1" ] || [ ! -e "$DESK/2" ] || [ ! -e "$DESK/3" ]; do sleep 0.01; done"#;
    desk.ok(&[
        "work",
        "q",
        "-j",
        "3",
        "--until-empty",
        "--",
        "sh",
        "-c",
        script,
    ]);
}

#[test]
fn a_cancelled_program_goes_with_its_whole_group() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let script = r#"trap '' TERM; sleep 1000 & echo $$ > "$DESK/group"; wait; sleep 1000"#;
    let _worker = desk.start(&[
        "work",
        "q",
        "--kill-after",
        "100ms",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let group = desk.wait_for_group("group");
    assert!(is_alive(group));
    assert_eq!(
        desk.ok(&["cancel", &id, "--reason", "enough"]),
        format!("asked the consumer of job {id} to stop it\n")
    );
    wait_until_gone(group);
    wait_until("the cancelled job", || {
        desk.job(&id)["state"] == "cancelled"
    });
    assert_eq!(desk.job(&id)["reason"], "enough");
}

#[test]
fn a_cancelled_program_may_clean_up() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let script = r#"trap 'echo clean > "$DESK/clean"; exit 0' TERM; echo $$ > "$DESK/group"; while :; do sleep 0.01; done"#;
    let _worker = desk.start(&["work", "q", "--kill-after", "60s", "--", "sh", "-c", script]);
    let group = desk.wait_for_group("group");
    desk.ok(&["cancel", &id]);
    assert_eq!(desk.wait_for_file("clean"), "clean");
    wait_until_gone(group);
    wait_until("the cancelled job", || {
        desk.job(&id)["state"] == "cancelled"
    });
}

/// A program that SIGTERM does not end.
const STUBBORN: &str = r#"trap '' TERM; echo $$ > "$DESK/group"; while :; do sleep 0.01; done"#;

#[test]
fn who_cancels_may_wait_for_the_receipt() {
    for (script, step, words) in [
        (STUBBORN, "Killed", "stopped by SIGKILL"),
        (PATIENT, "Terminated", "stopped by SIGTERM"),
    ] {
        let desk = Desk::new();
        let id = desk.push(&["q", "1"]);
        // The lease is so long that the worker does not learn it by a renewal.
        let _worker = desk.start(&[
            "work",
            "q",
            "--lease",
            "1h",
            "--kill-after",
            "100ms",
            "--",
            "sh",
            "-c",
            script,
        ]);
        let group = desk.wait_for_group("group");
        let printed = desk.ok(&["cancel", &id, "--wait"]);
        assert!(
            printed.starts_with(&format!("cancelled job {id}: {words} after ")),
            "{printed}"
        );
        assert!(!is_alive(group), "nothing of it runs when the command ends");
        let record = &desk.job(&id)["history"][0];
        assert_eq!(
            (&record["kind"], &record["stop"]["step"]),
            (&json!("cancelled"), &json!(step))
        );
        assert!(desk.ok(&["job", &id]).contains(words));
        assert_eq!(
            desk.run(&["cancel", &id, "--wait"]).code,
            Some(3),
            "it has ended"
        );
    }
}

#[test]
fn a_cancel_is_waited_for_no_longer_than_was_asked() {
    let desk = Desk::new();
    let (id, waiting) = (desk.push(&["q", "1"]), desk.push(&["other", "1"]));
    let _worker = desk.start(&[
        "work",
        "q",
        "--kill-after",
        "1h",
        "--",
        "sh",
        "-c",
        STUBBORN,
    ]);
    desk.wait_for_group("group");
    let ran = desk.run(&["cancel", &waiting, &id, "--wait=100ms", "--json"]);
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    let documents = ran.documents();
    assert_eq!(
        (&documents[0]["answer"], &documents[0]["stop"]["step"]),
        (&json!("cancelled"), &json!("NotStarted"))
    );
    assert_eq!(
        (&documents[1]["answer"], &documents[1]["state"]),
        (&json!("asked"), &json!("leased"))
    );
    assert_eq!(desk.job(&id)["cancel"], "cancelled from the command line");
}

#[test]
fn a_program_that_runs_for_too_long_is_stopped_and_has_failed() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1", "--timeout", "50ms"]);
    let worked = desk.run(&[
        "work",
        "q",
        "--kill-after",
        "100ms",
        "--until-empty",
        "--",
        "sh",
        "-c",
        STUBBORN,
    ]);
    assert_eq!(worked.code, Some(1));
    wait_until_gone(desk.wait_for_group("group"));
    let job = desk.job(&id);
    assert_eq!((&job["state"], &job["failed"]), (&json!("dead"), &json!(1)));
    assert_eq!(job["reason"], "timed out after 50ms, stopped by SIGKILL");
}

#[test]
fn no_program_is_started_when_the_time_for_it_is_over() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1", "--within", "0s"]);
    wait_until("the moment after", || {
        desk.run(&["take", "q"]).code == Some(3) && desk.job(&id)["state"] == "dead"
    });
    assert!(
        desk.job(&id)["reason"]
            .as_str()
            .unwrap()
            .contains("no attempt began")
    );
    assert_eq!(
        desk.run(&["push", "q", "1", "--within", "1s", "--delay", "1h"])
            .code,
        Some(2)
    );
}

#[test]
fn what_a_program_leaves_behind_is_ended_and_holds_nothing_up() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1", "--keep", "1h"]);
    desk.ok(&[
        "work",
        "q",
        "--until-empty",
        "--",
        "sh",
        "-c",
        r#"sleep 1000 & echo $$ > "$DESK/group"; echo 7"#,
    ]);
    assert_eq!(desk.job(&id)["result"], 7);
    wait_until_gone(desk.wait_for_group("group"));
}

/// A program that runs until the test makes the file `go`.
const PATIENT: &str = r#"echo $$ > "$DESK/group"; while [ ! -e "$DESK/go" ]; do sleep 0.01; done"#;

#[test]
fn the_first_signal_drains() {
    for signal in [Signal::INT, Signal::TERM] {
        let desk = Desk::new();
        let first = desk.push(&["q", "1", "--keep", "1h"]);
        let second = desk.push(&["q", "2"]);
        let mut worker = desk.start(&["work", "q", "--", "sh", "-c", PATIENT]);
        desk.wait_for_file("group");
        worker.signal(signal);
        worker.wait_for_line("waiting for the end");
        fs::write(desk.path("go"), "").unwrap();
        assert_eq!(worker.end(), Some(0));
        assert_eq!(
            (&desk.job(&first)["state"], &desk.job(&second)["state"]),
            (&json!("done"), &json!("ready"))
        );
    }
}

#[test]
fn the_second_signal_kills_and_gives_back() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    let mut worker = desk.start(&["work", "q", "--", "sh", "-c", PATIENT]);
    let group = desk.wait_for_group("group");
    worker.signal(Signal::INT);
    worker.wait_for_line("waiting for the end");
    worker.signal(Signal::INT);
    assert_eq!(worker.end(), Some(130));
    wait_until_gone(group);
    let job = desk.job(&id);
    assert_eq!(
        (&job["state"], &job["interrupted"], &job["failed"]),
        (&json!("ready"), &json!(1), &json!(0))
    );
    assert!(!exists(&desk.path("go")));
}
