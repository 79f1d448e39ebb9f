//! Taking, leasing and settling over HTTP.

use std::thread;
use std::time::Duration;

use brigade_testkit::facts::wait_until;
use brigade_testkit::http_server::HttpServer;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::{BINARY, Client, desk, url_in};

fn lease(client: &Client, queue: &str) -> Value {
    let leased = client.send(
        "POST",
        &format!("/v1/queues/{queue}/lease?time=30s"),
        "",
        "",
    );
    assert_eq!(leased.status, 200, "{leased:?}");
    leased.json()
}

fn settle(client: &Client, leased: &Value, how: &str, body: &Value) -> u16 {
    let lease = leased["lease"].as_str().unwrap();
    client
        .post(&format!("/v1/leases/{lease}/{how}"), body)
        .status
}

#[test]
fn a_long_poll_gets_a_job_that_is_pushed_while_it_waits() {
    let desk = desk();
    let client = desk.client.clone();
    let poll = thread::spawn(move || client.send("POST", "/v1/queues/q/take?wait=60s", "", ""));
    // The poll may begin before or after the push: it gets the job in both cases.
    desk.client.push("q", &json!({"payload": {"n": 1}}));
    let taken = poll.join().unwrap();
    assert_eq!(taken.status, 200, "{taken:?}");
    assert_eq!(taken.json()["payload"], json!({"n": 1}));
    let nothing = desk.client.send("POST", "/v1/queues/q/take", "", "");
    assert_eq!((nothing.status, nothing.text.as_str()), (204, ""));
}

#[test]
fn a_lease_is_settled_in_each_way() {
    let desk = desk();
    let client = &desk.client;
    let id = client.push("q", &json!({"payload": 1, "retries": 5, "keep": "1h"}));
    let leased = lease(client, "q");
    assert_eq!(leased["id"], id);
    assert_eq!(leased["attempt"], 1);
    let lease_of = leased["lease"].as_str().unwrap();
    let extended = client.post(
        &format!("/v1/leases/{lease_of}/extend"),
        &json!({"time": "60s"}),
    );
    assert_eq!(extended.json(), json!({"cancel": null}));
    assert_eq!(
        settle(client, &leased, "pass", &json!({"reason": "reloading"})),
        204
    );
    // The token of an earlier lease does not count any more.
    client
        .post(&format!("/v1/leases/{lease_of}/ack"), &json!({}))
        .problem(409, "stale");
    let leased = lease(client, "q");
    assert_eq!(settle(client, &leased, "give-back", &json!({})), 204);
    let leased = lease(client, "q");
    assert_eq!(
        settle(
            client,
            &leased,
            "nack",
            &json!({"reason": "no luck", "after": 0})
        ),
        204
    );
    let leased = lease(client, "q");
    assert_eq!(leased["attempt"], 2);
    assert_eq!(
        settle(client, &leased, "ack", &json!({"result": {"sent": true}})),
        204
    );
    let job = client.get(&format!("/v1/jobs/{id}")).json();
    assert_eq!(
        (&job["state"], &job["result"]),
        (&json!("done"), &json!({"sent": true}))
    );
    assert_eq!(job["failed"], 1);

    let id = client.push("q", &json!({"payload": 2}));
    let leased = lease(client, "q");
    assert_eq!(
        settle(
            client,
            &leased,
            "dead-letter",
            &json!({"reason": "unknown address"})
        ),
        204
    );
    let job = client.get(&format!("/v1/jobs/{id}")).json();
    assert_eq!(
        (&job["state"], &job["reason"]),
        (&json!("dead"), &json!("unknown address"))
    );
    client
        .post("/v1/leases/nonsense/ack", &json!({}))
        .problem(400, "bad_request");
}

#[test]
fn a_lease_survives_a_restart_of_the_server() {
    let mut desk = desk();
    let id = desk.client.push("q", &json!({"payload": 1, "keep": "1h"}));
    let leased = lease(&desk.client, "q");
    desk.server.signal(Signal::TERM);
    assert!(desk.server.wait(Duration::from_secs(60)).unwrap().success());
    let again = HttpServer::start(BINARY, &url_in(&desk.directory), ["--auth", "none"]).unwrap();
    let client = Client::new(again.base().unwrap());
    assert_eq!(settle(&client, &leased, "ack", &json!({})), 204);
    assert_eq!(
        client.get(&format!("/v1/jobs/{id}")).json()["state"],
        "done"
    );
}

#[test]
fn jobs_of_several_queues_are_leased_at_once() {
    let desk = desk();
    for (queue, payload) in [("low", 3), ("high", 1), ("high", 2)] {
        desk.client.push(queue, &json!({"payload": payload}));
    }
    let asked = json!({"queues": ["high", "low"], "max": 10});
    let leased = desk.client.post("/v1/leases", &asked).json();
    let payloads = leased["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["payload"]);
    let payloads: Vec<&Value> = payloads.collect();
    // SQLite and Redis may give the jobs of one queue, or those of the next as well.
    assert_eq!(payloads[..2], [&json!(1), &json!(2)]);
    for wrong in [
        json!({"queues": []}),
        json!({"queues": ["q"], "max": 0}),
        json!({"queues": ["q"], "time": 0}),
    ] {
        desk.client
            .post("/v1/leases", &wrong)
            .problem(400, "bad_request");
    }
}

#[test]
fn a_holder_learns_of_a_cancel_by_its_extension_and_the_canceller_gets_the_end() {
    let desk = desk();
    let id = desk.client.push("q", &json!({"payload": 1}));
    let leased = lease(&desk.client, "q");
    let (client, path) = (desk.client.clone(), format!("/v1/jobs/{id}/cancel"));
    let asked = client.post(&path, &json!({"reason": "ordered twice"}));
    assert_eq!(asked.json()["outcome"], "asked");
    let lease_of = leased["lease"].as_str().unwrap();
    let extended = client.post(
        &format!("/v1/leases/{lease_of}/extend"),
        &json!({"time": 30}),
    );
    assert_eq!(extended.json()["cancel"], "ordered twice");
    let canceller = thread::spawn(move || client.post(&path, &json!({"wait": "60s"})).json());
    assert_eq!(
        settle(
            &desk.client,
            &leased,
            "cancelled",
            &json!({"reason": "as asked"})
        ),
        204
    );
    let outcome = canceller.join().unwrap();
    // The cancel may have come after the end of the job, which is then nothing to cancel.
    assert!(
        outcome["state"] == "cancelled" || outcome["kind"] == "wrong_state",
        "{outcome}"
    );
    let job = desk.client.get(&format!("/v1/jobs/{id}")).json();
    assert_eq!(job["state"], "cancelled");
}

#[test]
fn a_server_that_stops_answers_its_long_polls_at_once() {
    let mut desk = desk();
    let client = desk.client.clone();
    let poll = thread::spawn(move || client.send("POST", "/v1/queues/q/take?wait=240s", "", ""));
    // The list of consumers has the poll while it waits.
    let waits = || desk.client.get("/v1/consumers").json()[0]["queues"] == json!(["q"]);
    assert!(wait_until(Duration::from_secs(60), waits).is_some());
    desk.server.signal(Signal::TERM);
    // Without an answer from the stop it would be cut off after the drain time, with none.
    let answer = poll.join().unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(desk.server.wait(Duration::from_secs(60)).unwrap().success());
}
