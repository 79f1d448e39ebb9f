//! Programs that take jobs over HTTP, as they are listed among the consumers.

use std::time::Duration;

use brigade_testkit::facts::wait_until;
use brigade_testkit::http_server::HttpServer;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::{BINARY, Client, desk, url_in};

/// Waits until the list of consumers is as it should be, and gives it.
#[track_caller]
fn listed(client: &Client, as_expected: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut last = Vec::new();
    let found = wait_until(Duration::from_secs(60), || {
        last = client
            .get("/v1/consumers")
            .json()
            .as_array()
            .unwrap()
            .clone();
        as_expected(&last)
    });
    assert!(found.is_some(), "{last:#?}");
    last
}

fn lease(client: &Client) -> String {
    let leased = client.send("POST", "/v1/queues/mail/lease?time=10m", "", "");
    leased.json()["lease"].as_str().unwrap().to_owned()
}

fn progress(client: &Client, lease: &str) {
    let report = json!({"part": 0.25, "text": "one of four"});
    let answer = client.post(&format!("/v1/leases/{lease}/progress"), &report);
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn has_progress(consumers: &[Value]) -> bool {
    consumers
        .iter()
        .any(|consumer| consumer["running"][0]["progress"] == 0.25)
}

#[test]
fn a_program_that_leases_is_listed_with_what_it_runs_and_how_far_that_is() {
    let desk = desk();
    let id = desk.client.push("mail", &json!({"payload": 1}));
    let mailer = desk
        .client
        .with_header("brigade-consumer", "web-1; pid=4711; version=1.2");
    let lease = lease(&mailer);
    progress(&mailer, &lease);
    let consumer = &listed(&desk.client, has_progress)[0];
    assert_eq!(
        [
            &consumer["host"],
            &consumer["pid"],
            &consumer["version"],
            &consumer["via"],
            &consumer["queues"],
            &consumer["held"],
        ],
        [
            &json!("web-1"),
            &json!(4711),
            &json!("1.2"),
            &json!("HTTP"),
            &json!(["mail"]),
            &json!(1)
        ]
    );
    let running = &consumer["running"][0];
    assert_eq!(
        (&running["job"], &running["queue"], &running["text"]),
        (&json!(id), &json!("mail"), &json!("one of four"))
    );
    let page = desk.client.get("/consumers").text;
    assert!(
        page.contains("pid 4711, over HTTP") && page.contains("25 % one of four"),
        "{page}"
    );
    // Another program may settle it: the lease is what counts.
    desk.client
        .post(&format!("/v1/leases/{lease}/ack"), &json!({}));
    let idle = listed(&desk.client, |consumers| {
        consumers.iter().any(|consumer| consumer["held"] == 0)
    });
    assert_eq!(idle[0]["running"], json!([]));
}

#[test]
fn a_program_without_a_name_is_listed_by_its_address_while_it_waits() {
    let desk = desk();
    let client = desk.client.clone();
    let poll =
        std::thread::spawn(move || client.send("POST", "/v1/queues/mail/take?wait=240s", "", ""));
    let found = listed(&desk.client, |consumers| consumers.len() == 1);
    assert_eq!(
        (&found[0]["host"], &found[0]["pid"], &found[0]["queues"]),
        (&json!("127.0.0.1"), &json!(null), &json!(["mail"]))
    );
    desk.client.push("mail", &json!({"payload": 1}));
    assert_eq!(poll.join().unwrap().status, 200);
    for wrong in ["; pid=1", "web-1; pid=many", "web-1; port=1"] {
        let answer = desk.client.with_header("brigade-consumer", wrong).send(
            "POST",
            "/v1/queues/mail/take",
            "",
            "",
        );
        answer.problem(400, "bad_request");
    }
}

#[test]
fn a_server_that_stops_takes_its_consumers_off_and_the_next_one_lists_who_goes_on() {
    let mut desk = desk();
    desk.client.push("mail", &json!({"payload": 1}));
    let mailer = desk.client.with_header("brigade-consumer", "web-1");
    let lease = lease(&mailer);
    listed(&desk.client, |consumers| consumers.len() == 1);
    desk.server.signal(Signal::TERM);
    assert!(desk.server.wait(Duration::from_secs(60)).unwrap().success());
    let again = HttpServer::start(BINARY, &url_in(&desk.directory), ["--auth", "none"]).unwrap();
    let client = Client::new(again.base().unwrap());
    assert_eq!(client.get("/v1/consumers").json(), json!([]));
    progress(&client.with_header("brigade-consumer", "web-1"), &lease);
    let consumer = &listed(&client, has_progress)[0];
    assert_eq!(
        (
            &consumer["host"],
            &consumer["queues"],
            &consumer["running"][0]["queue"]
        ),
        (&json!("web-1"), &json!(["mail"]), &json!("mail"))
    );
}
