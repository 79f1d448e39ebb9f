//! Whole queues over HTTP.

use serde_json::json;

use super::client::desk;

#[test]
fn a_queue_that_is_not_there_is_answered_with_near_names() {
    let desk = desk();
    for queue in ["emails", "e-mail", "invoices"] {
        desk.client.push(queue, &json!({"payload": 1}));
    }
    let problem = desk
        .client
        .get("/v1/queues/emials")
        .problem(404, "unknown_queue");
    assert_eq!(problem["did_you_mean"][0], "emails");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("did you mean \"emails\"?")
    );
    let problem = desk
        .client
        .get("/v1/queues/zzz")
        .problem(404, "unknown_queue");
    assert_eq!(problem.get("did_you_mean"), None);
    let problem = desk.client.get("/v1/qeues").problem(404, "unknown_path");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("/openapi.json")
    );
    desk.client
        .delete("/v1/queues")
        .problem(405, "wrong_method");
}

#[test]
fn a_queue_is_paused_limited_and_purged() {
    let desk = desk();
    let client = &desk.client;
    let jobs: Vec<_> = (0..3).map(|n| json!({"payload": n})).collect();
    client.post("/v1/queues/q/jobs", &json!(jobs));
    let limits = json!({"running": 2, "starts": {"starts": 60, "per": 60.0}, "running_per_partition": null, "starts_per_partition": null, "turns": false});
    assert_eq!(client.put("/v1/queues/q/limits", &limits).status, 204);
    client.send("POST", "/v1/queues/q/pause", "", "");
    let queue = client.get("/v1/queues/q").json();
    assert_eq!(queue["paused"], true);
    assert_eq!(queue["limits"], limits);
    assert_eq!(queue["jobs"]["ready"], 3);
    assert_eq!(client.send("POST", "/v1/queues/q/take", "", "").status, 204);
    client.send("POST", "/v1/queues/q/resume", "", "");
    assert_eq!(client.delete("/v1/queues/q/limits").status, 204);
    let queue = client.get("/v1/queues/q").json();
    assert_eq!(
        (&queue["paused"], &queue["limits"]),
        (&json!(false), &json!(null))
    );
    client
        .put("/v1/queues/q/limits", &json!({"running": 0}))
        .problem(400, "bad_option");
    client
        .put(
            "/v1/queues/q/limits",
            &json!({"starts": {"starts": 1, "per": -1}}),
        )
        .problem(400, "bad_request");
    let purged = client.send("POST", "/v1/queues/q/purge", "", "");
    assert_eq!(purged.json(), json!({"purged": 3}));
}
