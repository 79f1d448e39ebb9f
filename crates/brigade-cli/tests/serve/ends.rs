//! How a server ends: when its broker has closed for good, and what it was doing at a stop.
//!
//! A stop comes while something long is under way, which each test makes sure of by an event: an
//! operation has changed its first job, or an export has sent its first line and cannot send all of
//! the rest. What the server says of it afterwards has to be what the broker then has.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use brigade_testkit::facts::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::{Client, Desk, desk};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_server_whose_job_file_is_replaced_ends_with_an_error() {
    let mut desk = desk();
    desk.client.push("q", &json!({"payload": 1}));
    let file = desk.directory.path().join("jobs.db");
    std::fs::rename(&file, desk.directory.path().join("moved.db")).unwrap();
    let answer = desk
        .client
        .post("/v1/queues/q/jobs", &json!({"payload": 2}));
    answer.problem(503, "closed");
    assert_eq!(answer.header("retry-after"), None, "it does not come back");
    let status = desk.server.wait(LONG).unwrap();
    assert_eq!(status.code(), Some(1), "{}", desk.server.log());
    let log = desk.server.log();
    assert!(log.contains("has ended for good"), "{log}");
}

/// Pushes jobs in batches.
fn push_many(client: &Client, count: usize) {
    let batch = vec![json!({"payload": 1}); 10_000];
    for _ in 0..count / batch.len() {
        let pushed = client.post("/v1/queues/q/jobs", &json!(batch));
        assert_eq!(pushed.status, 201, "{pushed:?}");
    }
}

fn ready_jobs(desk: &Desk) -> u64 {
    let queue = desk.client.get("/v1/queues/q/scale").json();
    queue["ready"].as_u64().unwrap()
}

#[test]
fn an_operation_on_many_jobs_that_a_stop_cuts_short_says_how_far_it_came() {
    const JOBS: usize = 30_000;
    let mut desk = desk();
    push_many(&desk.client, JOBS);
    let form = "application/x-www-form-urlencoded";
    let begun = desk
        .client
        .send("POST", "/bulk/delete", form, "queue=q&state=ready");
    assert_eq!(begun.status, 303, "{begun:?}");
    let has_begun = wait_until(LONG, || ready_jobs(&desk) < JOBS as u64);
    assert!(has_begun.is_some());
    desk.server.signal(Signal::TERM);
    let status = desk.server.wait(LONG).unwrap();
    assert!(status.success(), "{}", desk.server.log());
    let log = desk.server.log();
    let line = log.lines().find(|line| line.contains("an operation ends"));
    let line = line.unwrap();
    assert!(line.contains("was_stopped=true"), "{line}");
    let (_, changed) = line.split_once("changed=").unwrap();
    let changed = changed.split_whitespace().next().unwrap();
    let url = super::client::url_in(&desk.directory);
    let again = brigade_testkit::http_server::HttpServer::start(
        super::client::BINARY,
        &url,
        ["--auth", "none"],
    );
    desk.server = again.unwrap();
    desk.client = Client::new(desk.server.base().unwrap());
    let deleted = JOBS as u64 - ready_jobs(&desk);
    assert_eq!(changed, deleted.to_string(), "{line}");
}

#[test]
fn an_export_that_a_stop_cuts_short_says_so_in_its_last_line() {
    const JOBS: usize = 40;
    let mut desk = desk();
    // More than the buffers of a connection have.
    let payload = "x".repeat(1 << 20);
    for _ in 0..JOBS {
        desk.client.push("q", &json!({ "payload": payload }));
        let leased = desk.client.post("/v1/leases", &json!({"queues": ["q"]}));
        let leased = leased.json();
        let lease = leased["jobs"][0]["lease"].as_str().unwrap();
        let path = format!("/v1/leases/{lease}/dead-letter");
        assert_eq!(desk.client.post(&path, &json!({})).status, 204);
    }
    let address = desk.client.base.strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let request = "GET /dead/export HTTP/1.0\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.next().unwrap().unwrap().contains("200 OK"));
    desk.server.signal(Signal::TERM);
    let is_closed = wait_until(LONG, || TcpStream::connect(&address).is_err());
    assert!(is_closed.is_some());
    let body = lines
        .map(Result::unwrap)
        .skip_while(|line| !line.is_empty());
    let documents: Vec<Value> = body
        .skip(1)
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect();
    let (last, jobs) = documents.split_last().unwrap();
    let error = last["error"].as_str().unwrap();
    assert!(error.contains("export again"), "{error}");
    assert!(jobs.len() < JOBS && jobs.iter().all(|job| job["state"] == "dead"));
    assert!(desk.server.wait(LONG).unwrap().success());
}
