//! What a server bounds: bytes of bodies and answers, and requests that wait.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use brigade_testkit::facts::wait_until;
use serde_json::{Value, json};

use super::client::{Client, Desk, desk, desk_with};

const LONG: Duration = Duration::from_secs(60);
/// Four of them are more than a page or an answer has, three are less.
const LARGE: usize = 1 << 20;

/// A connection with the beginning of a request.
fn begin(desk: &Desk, request: &str) -> TcpStream {
    let address = desk.client.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = request.replace('\n', "\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn push_large(client: &Client, count: usize) -> BTreeSet<String> {
    let payload = "x".repeat(LARGE);
    let push = |_| client.push("q", &json!({ "payload": payload }));
    (0..count).map(push).collect()
}

fn id_of(job: &Value) -> String {
    job["id"].as_str().unwrap().to_owned()
}

#[test]
fn the_bodies_of_all_requests_together_are_bounded() {
    let desk = desk();
    // Each says that its body is as large as one may be, and sends nothing of it. One more each
    // time: the last that has room may be refused because of the push.
    let request = "POST /v1/queues/q/jobs HTTP/1.1\nhost: localhost\ncontent-length: 16777216\n\n";
    let mut held: Vec<TcpStream> = (0..15).map(|_| begin(&desk, request)).collect();
    let push = || {
        desk.client
            .post("/v1/queues/q/jobs", &json!({"payload": 1}))
    };
    let mut refused = None;
    wait_until(LONG, || {
        held.push(begin(&desk, request));
        refused = Some(push()).filter(|answer| answer.status == 503);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!(refused.problem(503, "busy")["retryable"], true);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // A request without a body needs no memory for one.
    assert_eq!(desk.client.get("/v1/queues").status, 200);
    drop(held);
    assert!(wait_until(LONG, || push().status == 201).is_some());
}

#[test]
fn a_page_of_large_jobs_ends_early_and_says_where_to_go_on() {
    let desk = desk();
    let pushed = push_large(&desk.client, 6);
    let (mut listed, mut path) = (BTreeSet::new(), "/v1/jobs?queue=q&limit=1000".to_owned());
    let mut sizes = Vec::new();
    loop {
        let page = desk.client.get(&path).json();
        let jobs = page["jobs"].as_array().unwrap();
        sizes.push(jobs.len());
        listed.extend(jobs.iter().map(id_of));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/jobs?queue=q&limit=1000&cursor={next}");
    }
    assert_eq!(sizes, [4, 2]);
    assert_eq!(listed, pushed);
}

#[test]
fn leases_beyond_the_bytes_of_an_answer_are_given_back() {
    let desk = desk();
    let pushed = push_large(&desk.client, 6);
    let ask = json!({"queues": ["q"], "max": 1000, "time": "1h", "wait": "60s"});
    let mut leased = BTreeSet::new();
    while leased.len() < pushed.len() {
        let answer = desk.client.post("/v1/leases", &ask).json();
        let jobs = answer["jobs"].as_array().unwrap();
        assert!((1..=4).contains(&jobs.len()), "{} jobs", jobs.len());
        for job in jobs {
            assert!(leased.insert(id_of(job)), "a job has one holder");
        }
    }
    assert_eq!(leased, pushed);
}

#[test]
fn many_small_jobs_are_leased_at_once() {
    let desk = desk();
    let jobs: Vec<Value> = (0..1000).map(|n| json!({ "payload": n })).collect();
    desk.client.post("/v1/queues/q/jobs", &json!(jobs));
    let ask = json!({"queues": ["q"], "max": 1000});
    let answer = desk.client.post("/v1/leases", &ask).json();
    assert_eq!(answer["jobs"].as_array().unwrap().len(), 1000);
}

#[test]
fn requests_that_wait_leave_connections_to_the_others() {
    // 20 may wait. One more begins each time, as the last that has room may be refused because of
    // the poll.
    let desk = desk_with(&["--auth", "none", "--connections", "40"]);
    let request =
        "POST /v1/queues/idle/take?wait=240s HTTP/1.1\nhost: localhost\ncontent-length: 0\n\n";
    let mut held: Vec<TcpStream> = (0..19).map(|_| begin(&desk, request)).collect();
    let poll = || {
        desk.client
            .send("POST", "/v1/queues/idle/take?wait=1ms", "", "")
    };
    let mut refused = None;
    wait_until(LONG, || {
        held.push(begin(&desk, request));
        refused = Some(poll()).filter(|answer| answer.status == 503);
        refused.is_some()
    });
    refused.unwrap().problem(503, "busy");
    assert_eq!(desk.client.get("/livez").text, "ok\n");
    let at_once = desk.client.send("POST", "/v1/queues/idle/take", "", "");
    assert_eq!(at_once.status, 204, "it does not wait");
    drop(held);
    assert!(wait_until(LONG, || poll().status == 204).is_some());
}
