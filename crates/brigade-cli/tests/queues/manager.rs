//! `manager`: jobs for plain Redis clients, and the other commands on a Redis server.

use std::process::Stdio;

use brigade_testkit::redis::Redis;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::desk::Desk;

fn on_redis(desk: &Desk, server: &Redis, arguments: &[&str]) -> std::process::Command {
    let mut command = desk.command(arguments);
    command.env("BRIGADE_URL", server.url());
    command
}

fn ok(desk: &Desk, server: &Redis, arguments: &[&str]) -> String {
    let output = on_redis(desk, server, arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn plain_clients_are_given_jobs_in_the_order_in_which_they_asked() {
    let (desk, server) = (Desk::new(), Redis::start(&[]).unwrap());
    let mut command = on_redis(&desk, &server, &["manager", "mails", "others", "--json"]);
    let manager = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for id in ["b", "a"] {
        server
            .ask(&format!("RPUSH brigade:{{mails}}:free {id}"))
            .unwrap();
    }
    assert!(ok(&desk, &server, &["push", "mails", r#"{"n": 1}"#]).starts_with("mails/"));
    server
        .ask(r#"RPUSH brigade:{mails}:inbox '{"n": 2}'"#)
        .unwrap();
    server.ask("RPUSH brigade:{others}:free a").unwrap();
    ok(&desk, &server, &["push", "others", "[3]"]);
    let collect = |queue: &str, id: &str| {
        server
            .ask(&format!("BLPOP brigade:{{{queue}}}:to:{id} 20"))
            .unwrap()
    };
    let was_given = |answer: String, payload: &str| {
        assert!(
            answer.ends_with(&format!("{payload}\r\n")),
            "{answer:?} is not {payload}"
        )
    };
    was_given(collect("mails", "b"), r#"{"n": 1}"#);
    was_given(collect("mails", "a"), r#"{"n": 2}"#);
    was_given(collect("others", "a"), "[3]");

    kill_process(Pid::from_child(&manager), Signal::TERM).unwrap();
    let ended = manager.wait_with_output().unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let lines: Vec<serde_json::Value> = String::from_utf8(ended.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            json!({"queue": "mails", "handed": 2}),
            json!({"queue": "others", "handed": 1})
        ]
    );
}

#[test]
fn a_manager_is_for_redis() {
    let desk = Desk::new();
    let ran = desk.run(&["manager", "mails"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("redis://"), "{}", ran.stderr);
}

#[test]
fn programs_work_on_the_jobs_of_a_server() {
    let (desk, server) = (Desk::new(), Redis::start(&[]).unwrap());
    let id = ok(
        &desk,
        &server,
        &["push", "q", r#"{"name": "ann"}"#, "--keep", "1h"],
    );
    assert_eq!(
        ok(
            &desk,
            &server,
            &["work", "q", "--until-empty", "--", "echo", "{name}"]
        ),
        "ann\n"
    );
    let job: serde_json::Value =
        serde_json::from_str(&ok(&desk, &server, &["job", id.trim(), "--json"])).unwrap();
    assert_eq!(
        (&job["state"], &job["result"]),
        (&json!("done"), &json!("ann"))
    );
    let second = ok(&desk, &server, &["push", "q", "1"]);
    ok(&desk, &server, &["pause", "q"]);
    assert!(ok(&desk, &server, &["why", second.trim()]).contains("paused"));
    ok(&desk, &server, &["resume", "q"]);
    assert_eq!(ok(&desk, &server, &["take", "q"]), "1\n");
    assert_eq!(ok(&desk, &server, &["jobs", "q", "--state", "ready"]), "");
}
