//! `cron`: schedules.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::desk::Desk;

#[test]
fn schedules_are_added_listed_and_removed() {
    let desk = Desk::new();
    assert_eq!(desk.ok(&["cron", "ls"]), "");
    let zone = ["--zone", "Europe/Berlin", "--missed", "all", "--grace", "5m", "--task", "report"];
    let added = desk.ok(&[&["cron", "add", "nightly", "30 3 * * mon-fri", "reports", r#"{"day": 1}"#][..], &zone].concat());
    assert!(added.starts_with("next 20"), "{added}");
    desk.ok(&["cron", "add", "often", "@every 90s", "q", "-1"]);

    let listed = desk.ok(&["cron", "ls"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines.len() == 3 && lines[1].contains("30 3 * * mon-fri") && lines[1].contains("Europe/Berlin"), "{listed}");
    assert!(lines[2].contains("@every 1m 30s") && lines[2].contains("-1"), "{listed}");
    let documents = desk.run(&["cron", "ls", "--json"]).documents();
    let mut nightly = documents[0].clone();
    let next = nightly["next"].take();
    let expected = json!({
        "name": "nightly", "cron": "30 3 * * mon-fri", "zone": "Europe/Berlin", "every": null, "missed": "all", "grace": 300.0,
        "queue": "reports", "task": "report", "payload": {"day": 1}, "next": null,
    });
    assert_eq!(nightly, expected);
    assert!(next.as_str().unwrap().ends_with(":30:00.000Z"), "{next}");
    assert_eq!((&documents[1]["every"], &documents[1]["cron"]), (&json!(90.0), &Value::Null));

    assert_eq!(desk.ok(&["cron", "rm", "often"]), "removed often\n");
    let removed = desk.run(&["--json", "cron", "rm", "often", "nightly"]);
    assert_eq!(removed.code, Some(3), "{}", removed.stderr);
    assert_eq!(removed.documents(), [json!({"name": "often", "removed": false}), json!({"name": "nightly", "removed": true})]);
    assert_eq!(desk.ok(&["cron", "ls"]), "");
}

#[test]
fn what_cannot_be_meant_is_wrong_usage() {
    let desk = Desk::new();
    let cases: [(&[&str], &str); 8] = [
        (&["0 24 * * *", "q", "1"], r#"its field 2, "24", is no hour: 0 to 23"#),
        (&["0 0 31 2 *", "q", "1"], "no date ever matches it"),
        (&["* * *", "q", "1"], "it has 3 fields"),
        (&["@every soon", "q", "1"], "write a time as"),
        (&["@every 1ms", "q", "1"], "from 100ms"),
        (&["@every 1h", "q", "1", "--zone", "Asia/Tokyo"], "an interval has no time zone"),
        (&["@daily", "q", "1", "--zone", "Mars/Olympus"], r#"time zone "Mars/Olympus""#),
        (&["@daily", "q", "{"], "the payload is not JSON"),
    ];
    for (arguments, why) in cases {
        let ran = desk.run(&[&["cron", "add", "s"], arguments].concat());
        assert_eq!((ran.code, ran.stderr.contains(why)), (Some(2), true), "{arguments:?}: {}", ran.stderr);
    }
    assert_eq!(desk.ok(&["cron", "ls"]), "");
}

#[test]
fn a_worker_fires_what_is_due_and_its_programs_know_the_tick() {
    let desk = Desk::new();
    desk.ok(&["cron", "add", "s", "@every 500ms", "q", "7", "--keep", "1h"]);
    let program = r#"echo "$BRIGADE_TICK" >"$DESK/tick.$BRIGADE_JOB"; mv "$DESK/tick.$BRIGADE_JOB" "$DESK/tick""#;
    let working = desk.start(&["work", "q", "--", "sh", "-c", program]);
    let tick = desk.wait_for_file("tick");
    assert!(tick.ends_with(".000Z") || tick.ends_with(".500Z"), "{tick}");
    working.signal(Signal::TERM);
    assert_eq!(working.end(), Some(0));
    let job = desk.job("1");
    assert_eq!((&job["tick"]["schedule"], &job["payload"]), (&json!("s"), &json!(7)));
    assert!(desk.ok(&["job", "1"]).contains("schedule     s, for 20"));
    desk.push(&["other", "1"]);
    assert_eq!(desk.job(&desk.push(&["other", "2"]))["tick"], Value::Null);
}
