//! `call` and `work` over RabbitMQ, which brings answers itself.

use std::time::Duration;

use brigade_testkit::rabbitmq::{RabbitMq, namespace};
use rustix::process::{Pid, Signal, kill_process};

use super::desk::Desk;

/// A command for a namespace of the shared server.
fn command(desk: &Desk, namespace: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = desk.command(arguments);
    command.env(
        "BRIGADE_URL",
        format!("{}/?ns={namespace}", RabbitMq::shared().unwrap().url()),
    );
    command
}

#[test]
fn a_call_is_answered_by_whoever_serves_it() {
    let (desk, namespace) = (Desk::new(), namespace());
    let run = |arguments: &[&str]| {
        let output = command(&desk, &namespace, arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let script = r#"read -r line; case "$line" in *bad*) echo "no paper" >&2; exit 3;; *slow*) sleep 60;; *) echo "{\"got\": $line}";; esac"#;
    let mut worker = command(
        &desk,
        &namespace,
        &["work", "print", "--", "sh", "-c", script],
    )
    .spawn()
    .unwrap();
    assert_eq!(
        run(&["call", "print", "1", "text"]),
        (Some(0), r#"{"got":[1,"text"]}"#.to_owned(), String::new())
    );
    let (code, out, _) = run(&["call", "other-name", "--queue", "print", "1", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &document["outcome"], &document["result"]["got"]),
        (Some(0), &"done".into(), &serde_json::json!([1]))
    );
    let (code, out, error) = run(&["call", "print", "bad"]);
    assert!(
        code == Some(1) && out.is_empty() && error.contains("no paper"),
        "{error}"
    );
    let (code, out, _) = run(&["call", "print", "bad", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(
        code == Some(1)
            && document["outcome"] == "failed"
            && document["reason"].as_str().unwrap().contains("no paper"),
        "{document}"
    );
    let (code, out, error) = run(&["call", "unserved", "--timeout", "500ms"]);
    assert!(
        code == Some(4) && out.is_empty() && error.contains("no result within"),
        "{error}"
    );
    // Interrupted: it does not wait for the end of what runs.
    let mut calling = command(&desk, &namespace, &["call", "print", "slow"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&calling), Signal::INT).unwrap();
    assert_eq!(calling.wait().unwrap().code(), Some(130));
    worker.kill().unwrap();
    worker.wait().unwrap();
}
