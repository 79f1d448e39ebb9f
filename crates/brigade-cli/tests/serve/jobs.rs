//! Looking at jobs and steering them over HTTP.

use serde_json::{Value, json};

use super::client::desk;

#[test]
fn a_list_comes_in_pages_and_is_filtered() {
    let desk = desk();
    let jobs: Vec<Value> = (0..7).map(|n| json!({"payload": {"n": n}})).collect();
    desk.client.post("/v1/queues/a/jobs", &json!(jobs));
    desk.client.push("b", &json!({"payload": 99, "delay": 60}));
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = desk
            .client
            .get(&format!("/v1/jobs?queue=a&limit=3{cursor}"))
            .json();
        let jobs = page["jobs"].as_array().unwrap().clone();
        assert!(jobs.len() <= 3);
        seen.extend(
            jobs.into_iter()
                .map(|job| job["payload"]["n"].as_u64().unwrap()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    let scheduled = desk.client.get("/v1/jobs?state=scheduled").json();
    assert_eq!(scheduled["jobs"][0]["queue"], "b");
    assert_eq!(scheduled["jobs"].as_array().unwrap().len(), 1);
    for wrong in [
        "state=asleep",
        "limit=0",
        "limit=5000",
        "stat=ready",
        "pushed_from=soon",
    ] {
        desk.client
            .get(&format!("/v1/jobs?{wrong}"))
            .problem(400, "bad_request");
    }
}

#[test]
fn a_job_says_why_it_does_not_run() {
    let desk = desk();
    let id = desk.client.push("q", &json!({"payload": 1}));
    assert_eq!(
        desk.client
            .send("POST", "/v1/queues/q/pause", "", "")
            .status,
        204
    );
    let why = desk.client.get(&format!("/v1/jobs/{id}/why")).json();
    assert_eq!(why["state"], "ready");
    assert!(
        why["text"]
            .as_str()
            .unwrap()
            .contains("its queue is paused"),
        "{why}"
    );
    let reasons = why["reasons"].as_array().unwrap();
    assert!(
        reasons.iter().any(|reason| reason["why"] == "paused"),
        "{why}"
    );
}

#[test]
fn a_dead_letter_is_changed_and_retried_or_deleted() {
    let desk = desk();
    let client = &desk.client;
    let id = client.push("q", &json!({"payload": 1}));
    client
        .post(&format!("/v1/jobs/{id}/retry"), &json!({}))
        .problem(409, "wrong_state");
    let leased = client.send("POST", "/v1/queues/q/lease", "", "").json();
    client
        .delete(&format!("/v1/jobs/{id}"))
        .problem(409, "wrong_state");
    let lease = leased["lease"].as_str().unwrap();
    client.post(
        &format!("/v1/leases/{lease}/dead-letter"),
        &json!({"reason": "bad"}),
    );
    let retried = client.post(&format!("/v1/jobs/{id}/retry"), &json!({"payload": 2}));
    assert_eq!(retried.status, 200, "{retried:?}");
    let job = client.get(&format!("/v1/jobs/{id}")).json();
    assert_eq!(
        (&job["state"], &job["payload"]),
        (&json!("ready"), &json!(2))
    );
    client
        .delete(&format!("/v1/jobs/{id}?only_dead=true"))
        .problem(409, "wrong_state");
    assert_eq!(client.delete(&format!("/v1/jobs/{id}")).status, 204);
    client
        .get(&format!("/v1/jobs/{id}"))
        .problem(404, "unknown_job");
}

#[test]
fn a_dead_letter_can_be_given_null_as_its_payload() {
    let desk = desk();
    let client = &desk.client;
    let id = client.push("q", &json!({"payload": 1}));
    let leased = client.send("POST", "/v1/queues/q/lease", "", "").json();
    let path = format!(
        "/v1/leases/{}/dead-letter",
        leased["lease"].as_str().unwrap()
    );
    client.post(&path, &json!({"reason": "bad"}));
    let retried = client.post(&format!("/v1/jobs/{id}/retry"), &json!({"payload": null}));
    assert_eq!(retried.status, 200, "{retried:?}");
    let job = client.get(&format!("/v1/jobs/{id}")).json();
    assert_eq!(
        (&job["state"], job.get("payload")),
        (&json!("ready"), Some(&json!(null)))
    );
}

#[test]
fn a_waiting_job_is_cancelled_at_once() {
    let desk = desk();
    let id = desk.client.push("q", &json!({"payload": 1}));
    let path = format!("/v1/jobs/{id}/cancel");
    let cancelled = desk.client.send("POST", &path, "", "");
    assert_eq!(cancelled.json()["outcome"], "cancelled");
    let job = desk.client.get(&format!("/v1/jobs/{id}?wait=60s")).json();
    assert_eq!(job["state"], "cancelled");
    assert_eq!(job["reason"], "cancelled by anyone");
    desk.client
        .post(&path, &json!({}))
        .problem(409, "wrong_state");
    desk.client
        .post("/v1/jobs/999999/cancel", &json!({}))
        .problem(404, "unknown_job");
    desk.client
        .get("/v1/jobs/999999")
        .problem(404, "unknown_job");
    desk.client
        .get("/v1/jobs/999999/why")
        .problem(404, "unknown_job");
}
