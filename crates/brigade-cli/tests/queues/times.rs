//! Times that are far away, and how moments are written in JSON.

use std::time::Duration;

use brigade::Broker;
use serde_json::Value;

use super::desk::Desk;

#[test]
fn a_timeout_that_overflows_stops_no_worker() {
    let desk = Desk::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let broker = Broker::connect(&format!("sqlite:{}", desk.path("jobs.db").display()))
            .await
            .unwrap();
        broker
            .push(
                broker
                    .queue("q")
                    .job(&1)
                    .unwrap()
                    .timeout(Duration::MAX)
                    .keep(Duration::MAX),
            )
            .await
            .unwrap();
    });
    let second = desk.push(&[
        "q",
        "2",
        "--timeout",
        "7304484d",
        "--keep",
        "7304484d",
        "--within",
        "7304484d",
    ]);
    let longest = ["--lease", "7304484d", "--kill-after", "7304484d"];
    desk.ok(&[
        &["work", "q", "--until-empty"],
        &longest[..],
        &["--", "true"],
    ]
    .concat());
    assert_eq!(
        (&desk.job("1")["state"], &desk.job(&second)["state"]),
        (&"done".into(), &"done".into())
    );
}

#[test]
fn a_date_that_is_too_far_away_is_refused_with_the_reason() {
    let desk = Desk::new();
    for arguments in [
        &["push", "q", "1", "--delay", "7304484d"][..],
        &["push", "q", "-", "--delay", "7304484d"],
    ] {
        let ran = desk.run_with(arguments, b"1\n");
        assert!(
            ran.code != Some(0) && ran.stderr.contains("before the year 10000"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(desk.ok(&["queues"]), "");
}

/// Everything in a document whose name says that it is a moment.
fn moments(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| moments(value, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                assert!(name != "secs_since_epoch", "{value}");
                if ["at", "pushed_at", "due_at", "due", "begins_by", "next"]
                    .contains(&name.as_str())
                    && !value.is_null()
                {
                    found.push(value.clone());
                }
                moments(value, found);
            }
        }
        _ => {}
    }
}

#[test]
fn moments_in_json_are_rfc_3339_always() {
    let desk = Desk::new();
    let far = desk.push(&["q", "1", "--at", "9999-12-30T00:00:00Z"]);
    let retried = desk.push(&["r", "1", "--retries", "3", "--within", "7304484d"]);
    desk.push(&["dead", "1"]);
    desk.run(&["work", "dead", "--until-empty", "--", "false"]);
    let _worker = desk.start(&["work", "r", "--", "false"]);
    super::desk::wait_until("a retry", || desk.job(&retried)["failed"] != 0);
    desk.ok(&["cron", "add", "s", "0 0 29 2 *", "q", "1"]);
    let cancelled = desk.push(&["c", "1"]);
    let commands: [&[&str]; 8] = [
        &["job", &far, &retried],
        &["jobs"],
        &["why", &far, &retried],
        &["queues"],
        &["dead", "ls"],
        &["cron", "ls"],
        &["cancel", &cancelled, "--wait"],
        &["check"],
    ];
    let mut found = Vec::new();
    for command in commands {
        let ran = desk.run(&[command, &["--json"]].concat());
        ran.documents()
            .iter()
            .for_each(|document| moments(document, &mut found));
    }
    assert!(found.len() > 15, "{found:?}");
    for moment in found {
        let text = moment
            .as_str()
            .unwrap_or_else(|| panic!("{moment} is no text"));
        assert!(
            text.len() == 24
                && text.ends_with('Z')
                && text.as_bytes()[4] == b'-'
                && text.as_bytes()[10] == b'T',
            "{text}"
        );
    }
}
