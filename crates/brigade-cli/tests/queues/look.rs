//! Looking at jobs and queues, and deciding over them.

use serde_json::{Value, json};

use super::desk::Desk;

/// A queue with a dead letter, `1`, a kept result, `2`, and a job that waits, `3`.
fn desk_with_history() -> Desk {
    let desk = Desk::new();
    desk.push(&["q", r#"{"n": 1}"#, "--retries", "1"]);
    let failed = desk.run(&[
        "work",
        "q",
        "--until-empty",
        "--",
        "sh",
        "-c",
        "echo no luck >&2; exit 3",
    ]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    desk.push(&["q", r#"{"n": 2}"#, "--keep", "1h"]);
    desk.ok(&["work", "q", "--until-empty", "--", "cat"]);
    desk.push(&["q", r#"{"n": 3}"#]);
    desk
}

#[test]
fn a_job_tells_its_history() {
    let desk = desk_with_history();
    let dead = desk.job("1");
    assert_eq!(
        (&dead["state"], &dead["failed"], &dead["reason"]),
        (&json!("dead"), &json!(2), &json!("exit code 3: no luck"))
    );
    let attempts: Vec<&Value> = dead["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["attempt"])
        .collect();
    assert_eq!(attempts, [1, 2]);
    let text = desk.ok(&["job", "1", "2"]);
    for part in [
        "state        dead",
        "reason       exit code 3: no luck",
        "attempts     2 failed",
        "failed: exit code 3: no luck",
        "state        done",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(desk.job("2")["result"], json!({"n": 2}));
    assert_eq!(desk.run(&["job", "77"]).code, Some(3));
    assert_eq!(desk.run(&["job", "not an id", "3"]).code, Some(3));
}

#[test]
fn dead_letters_are_listed_retried_and_deleted() {
    let desk = desk_with_history();
    let listed = desk.ok(&["dead", "ls", "q"]);
    assert!(
        listed.contains("exit code 3: no luck") && listed.lines().count() == 2,
        "{listed}"
    );
    assert!(desk.ok(&["dead", "show", "1"]).contains("no luck"));
    assert_eq!(desk.run(&["dead", "show", "2"]).code, Some(3));
    let waits = desk.run(&["dead", "show", "3"]);
    assert!(
        waits.code == Some(3) && waits.stderr.contains("not a dead letter: job 3 is"),
        "{}",
        waits.stderr
    );
    assert_eq!(
        desk.run(&["dead", "delete", "3"]).code,
        Some(3),
        "it waits, it is not dead"
    );
    assert_eq!(desk.job("3")["state"], "ready");

    assert_eq!(desk.ok(&["dead", "retry", "1"]), "retrying job 1\n");
    assert_eq!(desk.run(&["retry", "1"]).code, Some(3));
    assert_eq!(
        (&desk.job("1")["state"], &desk.job("1")["failed"]),
        (&json!("ready"), &json!(0))
    );
    assert_eq!(
        desk.run(&["work", "q", "--until-empty", "--", "false"])
            .code,
        Some(1)
    );
    assert_eq!(desk.ok(&["dead", "delete", "3"]), "deleted job 3\n");
    assert_eq!(
        desk.ok(&["dead", "retry", "--all", "other"]),
        "retrying 0 jobs\n"
    );
    assert_eq!(desk.ok(&["dead", "retry", "--all"]), "retrying 1 job\n");
    assert_eq!(
        desk.run(&["work", "q", "--until-empty", "--", "false"])
            .code,
        Some(1)
    );
    assert_eq!(
        desk.run(&["dead", "delete", "--all"]).code,
        Some(2),
        "no confirmation came"
    );
    assert_eq!(
        desk.ok(&["dead", "delete", "--all", "q", "--yes"]),
        "deleted 1 job\n"
    );
    assert_eq!(desk.ok(&["dead", "ls"]), "");
}

#[test]
fn all_dead_letters_are_retried_page_by_page() {
    let desk = Desk::new();
    let lines: String = (0..700).map(|n| format!("{n}\n")).collect();
    desk.run_with(&["push", "q"], lines.as_bytes());
    assert_eq!(
        desk.run(&[
            "work",
            "q",
            "-j",
            "4",
            "--until-empty",
            "--",
            "true",
            "{field}"
        ])
        .code,
        Some(1)
    );
    assert_eq!(desk.ok(&["dead", "retry", "--all"]), "retrying 700 jobs\n");
    assert_eq!(desk.ok(&["purge", "q", "--yes"]), "removed 700 jobs\n");
}

#[test]
fn a_paused_queue_hands_out_nothing() {
    let desk = desk_with_history();
    assert_eq!(desk.ok(&["pause", "q"]), "paused q\n");
    assert_eq!(desk.run(&["take", "q"]).code, Some(3));
    assert!(desk.ok(&["queues"]).contains("paused\n"));
    assert_eq!(desk.ok(&["resume", "q"]), "resumed q\n");
    assert_eq!(desk.ok(&["take", "q"]), "{\"n\":3}\n");
}

#[test]
fn waiting_jobs_are_cancelled_and_purged() {
    let desk = desk_with_history();
    assert_eq!(
        desk.ok(&["cancel", "3", "--reason", "not needed"]),
        "cancelled job 3\n"
    );
    assert_eq!(
        (&desk.job("3")["state"], &desk.job("3")["reason"]),
        (&json!("cancelled"), &json!("not needed"))
    );
    assert_eq!(desk.run(&["cancel", "3"]).code, Some(3));
    desk.push(&["q", "4"]);
    desk.push(&["q", "5"]);
    assert_eq!(desk.ok(&["purge", "q", "--yes"]), "removed 2 jobs\n");
    assert_eq!(desk.job("2")["state"], "done", "what is done stays");
}

#[test]
fn lists_go_on_after_a_job() {
    let desk = Desk::new();
    desk.run_with(&["push", "q"], b"1\n2\n3\n4\n5\n");
    let payloads = |arguments: &[&str]| -> Vec<i64> {
        let ran = desk.run(&[&["jobs", "q", "--json"], arguments].concat());
        ran.documents()
            .iter()
            .map(|job| job["payload"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(payloads(&["--limit", "2"]), [1, 2]);
    assert!(
        desk.run(&["jobs", "--limit", "2"])
            .stderr
            .contains("--after 2")
    );
    assert_eq!(payloads(&["--after", "2"]), [3, 4, 5]);
    assert!(
        !desk
            .run(&["jobs", "--after", "2", "--limit", "3"])
            .stderr
            .contains("--after")
    );
    assert_eq!(payloads(&["--state", "dead"]), [0; 0]);
}

#[test]
fn json_is_one_document_per_line_everywhere() {
    let desk = desk_with_history();
    let each: [&[&str]; 19] = [
        &["push", "q", "9"],
        &["cron", "add", "s", "@daily", "q", "1"],
        &["cron", "ls"],
        &["cron", "rm", "s"],
        &["queues"],
        &["jobs"],
        &["job", "1", "2"],
        &["dead", "ls"],
        &["dead", "show", "1"],
        &["dead", "retry", "1"],
        &["cancel", "1"],
        &["retry", "1"],
        &["pause", "q"],
        &["resume", "q"],
        &["take", "q"],
        &["work", "q", "--until-empty", "--", "true"],
        &["dead", "retry", "--all"],
        &["dead", "delete", "--all", "--yes"],
        &["purge", "q", "--yes"],
    ];
    for arguments in each {
        let ran = desk.run(&[&["--json"], arguments].concat());
        assert!(!ran.documents().is_empty(), "{arguments:?}: {ran:?}");
        assert!(ran.documents().iter().all(Value::is_object));
    }
}

#[test]
fn text_of_others_is_harmless_on_a_terminal() {
    let desk = Desk::new();
    let evil = "x\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\r\n";
    desk.push(&[
        "q",
        "\"\u{9b}31m \u{202e}\"",
        "--label",
        evil,
        "--key",
        evil,
    ]);
    assert_eq!(
        desk.run(&["push", "q", "2", "--retries", "0"]).code,
        Some(0)
    );
    let reason = ["cancel", "1", "--reason", evil];
    desk.ok(&reason);
    assert_eq!(
        desk.run(&[
            "work",
            "q",
            "--until-empty",
            "--",
            "sh",
            "-c",
            "printf 'bad\\033[31m\\n' >&2; exit 1"
        ])
        .code,
        Some(1)
    );
    let each: [&[&str]; 7] = [
        &["job", "1", "2"],
        &["job", "1", "--json"],
        &["jobs"],
        &["jobs", "--json"],
        &["dead", "ls"],
        &["queues"],
        &["job", evil],
    ];
    for arguments in each {
        let ran = desk.run(arguments);
        let printed = ran.stdout + &ran.stderr;
        let odd = printed
            .chars()
            .find(|char| (char.is_control() && *char != '\n') || *char == '\u{202e}');
        assert_eq!(odd, None, "{arguments:?}: {printed:?}");
    }
    assert_eq!(
        desk.job("1")["payload"],
        "\u{9b}31m \u{202e}",
        "the value is what it was"
    );
}

#[test]
fn why_says_what_a_job_waits_for_and_check_what_is_wrong() {
    let desk = Desk::new();
    desk.push(&["q", "1", "--delay", "1h"]);
    desk.push(&["q", "2", "--partition", "ann"]);
    assert!(
        desk.ok(&["why", "1"]).starts_with(
            "job 1 of queue q is scheduled: it is due in 59 min; no consumer has asked"
        )
    );
    let lines = desk.ok(&["why", "1", "2", "--json"]);
    let second: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&second["state"], &second["reasons"][0]["why"]),
        (&json!("ready"), &json!("no_consumer"))
    );
    assert_eq!(second["reasons"][0]["since"], json!(60.0));
    assert_eq!(desk.run(&["why", "77"]).code, Some(3));

    let check = desk.run(&["check"]);
    assert_eq!(check.code, Some(1));
    assert!(
        check
            .stdout
            .contains("warning: 2 jobs wait in queue q, and no consumer has asked for them"),
        "{}",
        check.stdout
    );
    desk.ok(&["purge", "q", "--yes"]);
    let findings = desk.run(&["check", "--json"]);
    assert!(!findings.stdout.contains("queue q"), "{}", findings.stdout);
}

#[test]
fn limits_are_set_shown_and_kept() {
    let desk = Desk::new();
    assert_eq!(desk.ok(&["limit", "q"]), "q: no limits\n");
    let set = desk.ok(&[
        "limit",
        "q",
        "--running",
        "1",
        "--rate",
        "5/s",
        "--rate-per-partition",
        "100/1m",
        "--turns",
    ]);
    assert_eq!(
        set,
        "q: 1 running, 5 started within 1s, 100 started within 60s per partition, partitions take \
            turns\n"
    );
    let shown: Value = serde_json::from_str(&desk.ok(&["limit", "q", "--json"])).unwrap();
    assert_eq!(
        (
            &shown["limits"]["running"],
            &shown["limits"]["starts"]["per"]
        ),
        (&json!(1), &json!(1.0))
    );
    assert_eq!(desk.run(&["limit", "q", "--running", "0"]).code, Some(2));
    assert_eq!(desk.run(&["limit", "q", "--rate", "often"]).code, Some(2));
    assert_eq!(desk.ok(&["limit", "q", "--none"]), "q: no limits\n");
}

#[test]
fn a_dead_letter_is_changed_before_it_is_tried_again() {
    let desk = Desk::new();
    let id = desk.push(&["q", r#"{"to": "ann"}"#, "--task", "old"]);
    desk.run(&["work", "q", "--until-empty", "--", "false"]);
    assert_eq!(desk.job(&id)["state"], "dead");
    let wrong = desk.run(&["retry", &id, "--payload", "{"]);
    assert!(
        wrong.code == Some(2) && wrong.stderr.contains("not JSON"),
        "{}",
        wrong.stderr
    );
    let edit = [
        "--payload",
        r#"{"to": "ann"}"#,
        "--task",
        "new",
        "--queue",
        "other",
        "--json",
    ];
    let retried = desk.run(&[&["retry", &id], &edit[..]].concat());
    assert_eq!(
        retried.documents(),
        [serde_json::json!({"id": id, "retried": true, "job": id})]
    );
    let job = desk.job(&id);
    assert_eq!(
        (
            &job["state"],
            &job["queue"],
            &job["task"],
            &job["payload"]["to"]
        ),
        (
            &"ready".into(),
            &"other".into(),
            &"new".into(),
            &"ann".into()
        )
    );
    let again = desk.run(&["retry", &id, "--payload", "1"]);
    assert!(
        again.code == Some(3) && again.stderr.contains("is ready"),
        "{}",
        again.stderr
    );
    assert_eq!(desk.ok(&["take", "other"]), "{\"to\":\"ann\"}\n");
}
