//! `push`, `take`, `call`.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use super::desk::Desk;

#[test]
fn jobs_are_taken_in_the_order_of_their_pushes() {
    let desk = Desk::new();
    assert_eq!(desk.push(&["q", r#"{ "z": 1.50, "a": [1, 2] }"#]), "1");
    desk.push(&["q", r#""text""#]);
    desk.push(&["q", "-3", "--priority", "-1"]);
    desk.push(&["q", "4", "--priority", "7"]);
    for expected in ["4\n", "{\"z\":1.50,\"a\":[1,2]}\n", "\"text\"\n"] {
        assert_eq!(desk.ok(&["take", "q"]), expected);
    }
    assert_eq!(
        desk.ok(&["take", "q", "--json"]),
        "{\"id\":\"3\",\"queue\":\"q\",\"payload\":-3}\n"
    );
    let empty = desk.run(&["take", "q", "--wait", "10ms"]);
    assert_eq!((empty.code, &*empty.stdout), (Some(3), ""));
}

#[test]
fn options_reach_the_job() {
    let desk = Desk::new();
    let options = [
        "--delay",
        "1h",
        "--key",
        "k",
        "--unique",
        "u",
        "--retries",
        "2",
        "--task",
        "t",
        "--keep",
        "5m",
        "--label",
        "l",
    ];
    let id = desk.push(&[&["q", "1"], &options[..]].concat());
    let job = desk.job(&id);
    assert_eq!(
        (&job["state"], &job["key"], &job["task"], &job["label"]),
        (&json!("scheduled"), &json!("k"), &json!("t"), &json!("l"))
    );
    let again = desk.run(&["push", "q", "2", "--unique", "u"]);
    assert_eq!((again.code, again.stdout.trim()), (Some(0), &*id));
    assert!(again.stderr.contains("nothing pushed"), "{}", again.stderr);
    let at = desk.push(&["q", "1", "--at", "2099-01-02T03:04:05Z"]);
    assert_eq!(desk.job(&at)["due_at"], "2099-01-02T03:04:05.000Z");
}

#[test]
fn wrong_usage_is_told_and_pushes_nothing() {
    let desk = Desk::new();
    let wrong: [&[&str]; 7] = [
        &["push", "q", "no json"],
        &["push", "q", "1", "--delay", "5"],
        &["push", "q", "1", "--at", "soon"],
        &["push", "", "1"],
        &["purge", "q"],
        &["jobs", "--state", "odd"],
        &["work", "q", "true"],
    ];
    for arguments in wrong {
        let ran = desk.run(arguments);
        assert_eq!((ran.code, &*ran.stdout), (Some(2), ""), "{arguments:?}");
        assert!(!ran.stderr.is_empty());
    }
    assert_eq!(desk.ok(&["queues"]), "");
}

#[test]
fn lines_are_pushed_in_bulk() {
    let desk = Desk::new();
    let lines: String = (1..=2_500).map(|n| format!("{n}\n")).collect();
    let pushed = desk.run_with(&["push", "nums", "-"], lines.as_bytes());
    assert_eq!(
        (pushed.code, &*pushed.stdout),
        (Some(0), "2500\n"),
        "{}",
        pushed.stderr
    );
    let listed = desk
        .run(&["jobs", "nums", "--json", "--limit", "9999"])
        .documents();
    assert!(
        listed
            .iter()
            .map(|job| job["payload"].as_u64().unwrap())
            .eq(1..=2_500)
    );
    let more = desk.run_with(
        &["push", "nums", "--json"],
        b"\n {\"a\": 1} \r\n\n\"no line break at the end\"",
    );
    assert_eq!(more.documents(), [json!({"pushed": 2, "duplicates": 0})]);
}

#[test]
fn a_bad_line_is_named_and_its_batch_left_out() {
    let desk = Desk::new();
    let mut lines: String = (1..=1_200).map(|n| format!("{n}\n")).collect();
    lines.push_str("oops\n1\n");
    let path = desk.path("lines");
    fs::write(&path, lines).unwrap();
    let mut command = desk.command(&["push", "q", "-"]);
    let output = command
        .stdin(fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]));
    assert!(
        stderr.contains("line 1201 is not JSON") && stderr.contains("oops"),
        "{stderr}"
    );
    assert!(
        stderr.contains("nothing was pushed of lines 1001 to 1201, 1,000 jobs were pushed before"),
        "{stderr}"
    );
    assert_eq!(desk.ok(&["purge", "q", "--yes"]), "removed 1000 jobs\n");

    let noise = desk.run_with(&["push", "q"], b"1\n\"\xff\"\n");
    assert_eq!(noise.code, Some(1));
    assert!(
        noise.stderr.contains("line 2 is not UTF-8"),
        "{}",
        noise.stderr
    );
    let long = [b"\"", &*vec![b'x'; 17 << 20], b"\"\n"].concat();
    let long = desk.run_with(&["push", "q"], &long);
    assert!(
        long.code == Some(1) && long.stderr.contains("line 1 is longer than"),
        "{}",
        long.stderr
    );
}

#[test]
fn a_slow_producer_is_not_held_back() {
    let desk = Desk::new();
    let mut child = desk
        .command(&["push", "q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for n in 1..=3 {
        writeln!(stdin, "{n}").unwrap();
        assert_eq!(desk.ok(&["take", "q", "--wait", "60s"]), format!("{n}\n"));
    }
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().stdout, b"3\n");
}

#[test]
fn a_call_gives_the_result_of_a_worker() {
    let desk = Desk::new();
    let _worker = desk.start(&["work", "echo", "--", "cat"]);
    assert_eq!(
        desk.ok(&["call", "echo", "1", "-2.50", "plain text", r#"{"a": null}"#]),
        "[1,-2.50,\"plain text\",{\"a\":null}]\n"
    );
    let _failing = desk.start(&["work", "fail", "--", "false"]);
    let failed = desk.run(&["call", "fail"]);
    assert!(
        failed.code == Some(1) && failed.stderr.contains("exit code 1"),
        "{failed:?}"
    );
}

#[test]
fn a_call_that_nobody_answers_is_cancelled() {
    let desk = Desk::new();
    let ran = desk.run(&["call", "unserved", "1", "--timeout", "50ms"]);
    assert_eq!((ran.code, &*ran.stdout), (Some(4), ""));
    assert_eq!(desk.job("1")["state"], "cancelled");
}
