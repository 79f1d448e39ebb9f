//! Traces of the command, as a collector receives them.

use std::process::{Command, Output};

use brigade_testkit::http_server::HttpServer;
use brigade_tracing_tests::{Collector, ReceivedSpan};
use serde_json::json;
use tempfile::TempDir;

use super::client::{BINARY, Client, url_in};

fn run(directory: &TempDir, trace_url: &str, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .env("BRIGADE_URL", url_in(directory))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", trace_url)
        .output()
        .unwrap()
}

/// The collector's address, without the path of traces.
fn address(collector: &Collector) -> &str {
    collector.endpoint().strip_suffix("/v1/traces").unwrap()
}

fn until(collector: &Collector, names: &[&str]) -> Vec<ReceivedSpan> {
    let has_all = |spans: &[ReceivedSpan]| {
        let has = |name: &&str| spans.iter().any(|span| span.name == **name);
        names.iter().all(has)
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let spans = runtime.block_on(collector.until(has_all));
    let named = |name: &&str| spans.iter().find(|span| span.name == **name).unwrap();
    names.iter().map(named).cloned().collect()
}

#[test]
fn a_trace_goes_from_a_request_through_push_and_attempt_into_the_program() {
    let collector = Collector::start();
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--auth", "none", "--trace-url", address(&collector)];
    let server = HttpServer::start(BINARY, &url_in(&directory), arguments).unwrap();
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let client = Client::new(server.base().unwrap())
        .with_header("traceparent", &format!("00-{trace}-{caller}-01"));
    client.push("mail", &json!({"payload": 1}));
    let program = [
        "work",
        "mail",
        "--until-empty",
        "--",
        "sh",
        "-c",
        "echo $TRACEPARENT",
    ];
    let worked = run(&directory, address(&collector), &program);
    assert!(worked.status.success(), "{worked:?}");
    let printed = String::from_utf8(worked.stdout).unwrap();
    let names = ["POST /v1/queues/{queue}/jobs", "push mail", "process mail"];
    let mut parent = caller.to_owned();
    for span in until(&collector, &names) {
        assert_eq!(
            (&*span.trace, &*span.service),
            (trace, "brigade"),
            "{span:?}"
        );
        assert_eq!(span.parent, parent, "{span:?}");
        parent = span.id;
    }
    assert!(
        printed.contains(&format!("00-{trace}-{parent}-01")),
        "{printed}"
    );
    // The log has no span before its lines.
    let log = server.log();
    assert!(
        log.contains("/v1/queues/mail/jobs") && !log.contains("otel"),
        "{log}"
    );
}

#[test]
fn a_command_that_ends_at_once_sends_its_spans_first() {
    let collector = Collector::start();
    let directory = tempfile::tempdir().unwrap();
    let pushed = run(&directory, collector.endpoint(), &["push", "mail", "1"]);
    assert!(
        pushed.status.success() && pushed.stderr.is_empty(),
        "{pushed:?}"
    );
    let spans = until(&collector, &["push mail"]);
    assert_eq!(spans[0].attributes["messaging.destination.name"], "mail");
}

#[test]
fn a_collector_that_is_away_costs_traces_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let pushed = run(&directory, "http://127.0.0.1:1", &["push", "mail", "1"]);
    let text = String::from_utf8(pushed.stderr).unwrap();
    assert!(
        pushed.status.success() && text.contains("traces are lost"),
        "{text}"
    );
    assert_eq!(String::from_utf8(pushed.stdout).unwrap(), "1\n");
    let wrong = run(&directory, "localhost:4317", &["push", "mail", "1"]);
    let text = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        wrong.status.code() == Some(2) && text.contains("http://127.0.0.1:4318"),
        "{text}"
    );
}
