//! `cron`: schedules.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::desk::{Desk, Running, wait_until};

#[test]
fn schedules_are_added_listed_and_removed() {
    let desk = Desk::new();
    assert_eq!(desk.ok(&["cron", "ls"]), "");
    let zone = [
        "--zone",
        "Europe/Berlin",
        "--missed",
        "all",
        "--grace",
        "5m",
        "--task",
        "report",
    ];
    let added = desk.ok(&[
        &[
            "cron",
            "add",
            "nightly",
            "30 3 * * mon-fri",
            "reports",
            r#"{"day": 1}"#,
        ][..],
        &zone,
    ]
    .concat());
    assert!(added.starts_with("next 20"), "{added}");
    desk.ok(&["cron", "add", "often", "@every 90s", "q", "-1"]);

    let listed = desk.ok(&["cron", "ls"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(
        lines.len() == 3
            && lines[1].contains("30 3 * * mon-fri")
            && lines[1].contains("Europe/Berlin"),
        "{listed}"
    );
    assert!(
        lines[2].contains("@every 1m 30s") && lines[2].contains("-1"),
        "{listed}"
    );
    let documents = desk.run(&["cron", "ls", "--json"]).documents();
    let mut nightly = documents[0].clone();
    let next = nightly["next"].take();
    let expected = json!({
        "name": "nightly", "cron": "30 3 * * mon-fri", "zone": "Europe/Berlin", "every": null, "missed": "all", "grace": 300.0,
        "queue": "reports", "task": "report", "payload": {"day": 1}, "next": null, "group": null,
        "paused": false,
    });
    assert_eq!(nightly, expected);
    assert!(next.as_str().unwrap().ends_with(":30:00.000Z"), "{next}");
    assert_eq!(
        (&documents[1]["every"], &documents[1]["cron"]),
        (&json!(90.0), &Value::Null)
    );

    assert_eq!(desk.ok(&["cron", "rm", "often"]), "removed often\n");
    let removed = desk.run(&["--json", "cron", "rm", "often", "nightly"]);
    assert_eq!(removed.code, Some(3), "{}", removed.stderr);
    assert_eq!(
        removed.documents(),
        [
            json!({"name": "often", "removed": false}),
            json!({"name": "nightly", "removed": true})
        ]
    );
    assert_eq!(desk.ok(&["cron", "ls"]), "");
}

#[test]
fn a_schedule_is_paused_and_resumed() {
    let desk = Desk::new();
    desk.ok(&["cron", "add", "often", "@every 90s", "q", "1"]);
    assert_eq!(desk.ok(&["cron", "pause", "often"]), "paused often\n");
    assert!(desk.ok(&["cron", "ls"]).contains("paused"));
    // Adding it again does not end the pause.
    desk.ok(&["cron", "add", "often", "@every 60s", "q", "2"]);
    let paused = || desk.run(&["cron", "ls", "--json"]).documents()[0]["paused"].clone();
    assert_eq!(paused(), true);
    let resumed = desk.run(&["--json", "cron", "resume", "often"]);
    let document = json!({"name": "often", "paused": false});
    assert_eq!(
        (resumed.code, resumed.documents()),
        (Some(0), vec![document])
    );
    assert_eq!(paused(), false);
    let unknown = desk.run(&["cron", "pause", "seldom"]);
    assert_eq!(unknown.code, Some(3), "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("there is no schedule seldom"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_file_sets_the_schedules_of_a_group_and_leaves_others_alone() {
    let desk = Desk::new();
    desk.ok(&["cron", "add", "alone", "@daily", "q", "1"]);
    let file = desk.path("schedules.json");
    let set = |schedules: &Value| {
        fs::write(&file, schedules.to_string()).unwrap();
        desk.run(&["--json", "cron", "set", "shop", file.to_str().unwrap()])
    };
    let (nightly, hourly) = (
        json!({
            "name": "nightly", "when": "30 3 * * mon-fri", "zone": "Europe/Berlin", "queue": "reports",
            "payload": {"kind": "sales"}, "missed": "all", "grace": "5m",
            "options": {"retries": 3, "timeout": "10m", "task": "report"},
        }),
        json!({"name": "hourly", "when": "@hourly", "queue": "q", "payload": null}),
    );
    let first = &set(&json!([nightly, hourly])).documents()[0];
    assert_eq!(first["added"].as_array().unwrap().len(), 2, "{first}");
    let added = &first["added"][0];
    assert_eq!(
        [
            &added["group"],
            &added["missed"],
            &added["grace"],
            &added["task"]
        ],
        [
            &json!("shop"),
            &json!("all"),
            &json!(300.0),
            &json!("report")
        ]
    );

    // A deploy that names one less, and one otherwise.
    let mut changed = nightly.clone();
    changed["payload"] = json!({"kind": "stock"});
    let second = &set(&json!([changed])).documents()[0];
    assert_eq!(second["removed"], json!(["hourly"]), "{second}");
    assert_eq!(second["changed"][0]["payload"], json!({"kind": "stock"}));
    assert_eq!(second["added"], json!([]));

    let again = desk.run(&["cron", "set", "shop", file.to_str().unwrap()]);
    assert!(
        again.code == Some(0) && again.stdout.is_empty() && again.stderr.contains("as in the file"),
        "{again:?}"
    );
    let names = |listed: &[Value]| -> Vec<String> {
        listed
            .iter()
            .map(|document| document["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let listed = desk.run(&["cron", "ls", "--json"]).documents();
    assert_eq!(names(&listed), ["alone", "nightly"]);

    // Standard input, and nothing is left.
    let emptied = desk.run_with(&["cron", "set", "shop", "-"], b"[]");
    assert_eq!(emptied.stdout, "removed nightly\n", "{}", emptied.stderr);
}

#[test]
fn a_file_of_schedules_that_cannot_be_meant_changes_nothing() {
    let desk = Desk::new();
    let good = r#"{"name": "good", "when": "@daily", "queue": "q", "payload": 1}"#;
    for (second, why) in [
        ("{", "expected a JSON array of schedules"),
        (
            r#"{"name": "s", "when": "@daily", "queue": "q"}"#,
            "payload",
        ),
        (
            r#"{"name": "s", "when": "@daily", "queue": "q", "payload": 1, "color": 2}"#,
            "unknown field `color`",
        ),
        (
            r#"{"name": "s", "when": "@daily", "queue": "q", "payload": 1, "options": {"at": 1}}"#,
            "unknown field `at`",
        ),
        (
            r#"{"name": "s", "when": "@daily", "queue": "q", "payload": 1, "grace": "soon"}"#,
            "write a time as",
        ),
        (
            r#"{"name": "s", "when": "0 24 * * *", "queue": "q", "payload": 1}"#,
            "is no hour",
        ),
        (
            r#"{"name": "good", "when": "@hourly", "queue": "q", "payload": 1}"#,
            "two have the name",
        ),
    ] {
        let input = format!("[{good}, {second}]");
        let ran = desk.run_with(&["cron", "set", "shop", "-"], input.as_bytes());
        assert_eq!(
            (ran.code, ran.stderr.contains(why)),
            (Some(2), true),
            "{second}: {}",
            ran.stderr
        );
    }
    assert_eq!(desk.ok(&["cron", "ls"]), "");
}

#[test]
fn what_cannot_be_meant_is_wrong_usage() {
    let desk = Desk::new();
    let cases: [(&[&str], &str); 9] = [
        (
            &["0 24 * * *", "q", "1"],
            r#"its field 2, "24", is no hour: 0 to 23"#,
        ),
        (&["0 0 31 2 *", "q", "1"], "no date ever matches it"),
        (&["* * *", "q", "1"], "it has 3 fields"),
        (&["@every soon", "q", "1"], "write a time as"),
        (&["every 90s", "q", "1"], "'@every 90s'"),
        (&["@every 1ms", "q", "1"], "from 100ms"),
        (
            &["@every 1h", "q", "1", "--zone", "Asia/Tokyo"],
            "an interval has no time zone",
        ),
        (
            &["@daily", "q", "1", "--zone", "Mars/Olympus"],
            r#"time zone "Mars/Olympus""#,
        ),
        (&["@daily", "q", "{"], "the payload is not JSON"),
    ];
    for (arguments, why) in cases {
        let ran = desk.run(&[&["cron", "add", "s"], arguments].concat());
        assert_eq!(
            (ran.code, ran.stderr.contains(why)),
            (Some(2), true),
            "{arguments:?}: {}",
            ran.stderr
        );
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
    assert_eq!(
        (&job["tick"]["schedule"], &job["payload"]),
        (&json!("s"), &json!(7))
    );
    assert!(desk.ok(&["job", "1"]).contains("schedule     s, for 20"));
    desk.push(&["other", "1"]);
    assert_eq!(desk.job(&desk.push(&["other", "2"]))["tick"], Value::Null);
}

/// libfaketime, which gives one process a wall clock that can be set. Debian's package faketime.
fn faketime() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    places
        .map(|place| place.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

/// A worker whose wall clock is that of the file `clock`.
fn start_with_clock(desk: &Desk, library: &Path, queue: &str, program: &str) -> Running {
    let mut command = desk.command(&["work", queue, "--lease", "1s", "--", "sh", "-c", program]);
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", desk.path("clock"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Desk::start_command(command)
}

#[test]
fn h48_a_wall_clock_that_is_set_while_a_worker_runs_moves_no_lease_and_repeats_no_tick() {
    let Some(library) = faketime() else {
        println!("MISSING: libfaketime, so the wall clock cannot be set");
        return;
    };
    let desk = Desk::new();
    let set_clock = |by: &str| {
        fs::write(desk.path("clock.new"), by).unwrap();
        fs::rename(desk.path("clock.new"), desk.path("clock")).unwrap();
    };
    let ticks = || -> Vec<Value> {
        let jobs = desk
            .run(&["jobs", "ticks", "--state", "done", "--json"])
            .documents();
        jobs.iter().map(|job| job["tick"]["at"].clone()).collect()
    };
    desk.ok(&[
        "cron", "add", "s", "@hourly", "ticks", "1", "--missed", "all", "--keep", "1d",
    ]);
    let held = desk.push(&["held", "1", "--keep", "10d"]);
    set_clock("+0");
    let holding = start_with_clock(
        &desk,
        &library,
        "held",
        "echo >$DESK/held; until [ -e $DESK/go ]; do sleep 0.05; done",
    );
    let working = start_with_clock(&desk, &library, "ticks", "true");
    desk.wait_for_file("held");

    set_clock("+1h");
    wait_until("the first tick", || !ticks().is_empty());
    set_clock("-1d");
    // Two jobs after each other: the worker has looked since the clock was set.
    for _ in 0..2 {
        let id = desk.push(&["ticks", "0", "--keep", "10d"]);
        wait_until("a job", || desk.job(&id)["state"] == "done");
    }
    set_clock("+3h");
    wait_until("two more", || {
        ticks().iter().filter(|tick| !tick.is_null()).count() >= 3
    });

    fs::write(desk.path("go"), "").unwrap();
    wait_until("the job that was held", || {
        desk.job(&held)["state"] == "done"
    });
    assert_eq!(
        desk.job(&held)["interrupted"],
        0,
        "its lease held through all of it"
    );
    for worker in [holding, working] {
        worker.signal(Signal::TERM);
        assert_eq!(worker.end(), Some(0));
    }
    let ticks = ticks();
    let hour = |tick: &Value| {
        let at: jiff::Timestamp = tick.as_str()?.parse().unwrap();
        Some(at.as_second() / 3600)
    };
    let hours: Vec<i64> = ticks.iter().filter_map(hour).collect();
    assert!(
        hours.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "each once, in order: {ticks:?}"
    );
}
