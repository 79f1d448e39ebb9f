//! Pushes over HTTP: one, many, again.

use serde_json::json;

use super::client::desk;

#[test]
fn a_job_is_pushed_with_its_options() {
    let desk = desk();
    let id = desk.client.push(
        "emails",
        &json!({"payload": {"to": "ann"}, "delay": "1h", "priority": 7, "label": "greeting", "key": "ann", "partition": "eu"}),
    );
    let job = desk.client.get(&format!("/v1/jobs/{id}")).json();
    assert_eq!(job["state"], "scheduled");
    assert_eq!(job["payload"], json!({"to": "ann"}));
    assert_eq!(job["priority"], 7);
    assert_eq!(job["label"], "greeting");
    assert_eq!(job["key"], "ann");
    assert_eq!(job["partition"], "eu");
    assert!(job["due_at"].as_str().unwrap() > job["pushed_at"].as_str().unwrap());
}

#[test]
fn an_array_and_lines_are_pushed_in_their_order() {
    let desk = desk();
    let array = json!([{"payload": 1}, {"payload": 2}]);
    let pushed = desk.client.post("/v1/queues/q/jobs", &array);
    assert_eq!(pushed.status, 201, "{pushed:?}");
    assert_eq!(pushed.json()["jobs"].as_array().unwrap().len(), 2);
    let lines = "{\"payload\": 3}\n\n{\"payload\": 4}\n";
    let pushed = desk
        .client
        .send("POST", "/v1/queues/q/jobs", "application/x-ndjson", lines);
    assert_eq!(pushed.json()["jobs"].as_array().unwrap().len(), 2);
    let taken = || desk.client.send("POST", "/v1/queues/q/take", "", "").json()["payload"].clone();
    assert_eq!([taken(), taken(), taken(), taken()], [1, 2, 3, 4]);
}

#[test]
fn a_bad_line_is_named_and_nothing_of_its_batch_is_pushed() {
    let desk = desk();
    let push = |lines: &str| {
        desk.client
            .send("POST", "/v1/queues/q/jobs", "application/x-ndjson", lines)
    };
    let problem = push("{\"payload\": 1}\n{\"payload\": oops}\n").problem(400, "bad_request");
    assert_eq!(problem["line"], 2);
    assert!(
        problem["detail"].as_str().unwrap().contains("line 2"),
        "{problem}"
    );
    let problem =
        push("{\"payload\": 1}\n{\"payload\": 1, \"dealy\": \"5s\"}").problem(400, "bad_request");
    assert!(
        problem["detail"].as_str().unwrap().contains("dealy"),
        "{problem}"
    );
    let problem =
        push("{\"payload\": 1}\n{\"payload\": 1, \"timeout\": 0}").problem(400, "bad_option");
    assert_eq!(problem["line"], 2);
    assert_eq!(desk.client.get("/v1/queues").json(), json!([]));
}

#[test]
fn a_payload_without_its_envelope_is_refused_with_what_was_expected() {
    let desk = desk();
    let problem = desk
        .client
        .post("/v1/queues/q/jobs", &json!({"to": "ann"}))
        .problem(400, "bad_request");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("`to`") && detail.contains("`payload`"),
        "{detail}"
    );
    let problem = desk
        .client
        .send(
            "POST",
            "/v1/queues/q/jobs",
            "application/json",
            "{\"payload\":\n 1,",
        )
        .problem(400, "bad_request");
    assert_eq!(problem["line"], 2);
}

#[test]
fn a_push_that_is_repeated_with_its_idempotency_key_gives_the_same_job() {
    let desk = desk();
    let client = desk.client.with_header("Idempotency-Key", "order-17");
    let first = client.post("/v1/queues/q/jobs", &json!({"payload": 1}));
    assert_eq!(
        (first.status, &first.json()["duplicate"]),
        (201, &json!(false))
    );
    let second = client.post("/v1/queues/q/jobs", &json!({"payload": 1}));
    assert_eq!(
        (second.status, &second.json()["duplicate"]),
        (200, &json!(true))
    );
    assert_eq!(first.json()["id"], second.json()["id"]);
    // Also after the job is done.
    desk.client.send("POST", "/v1/queues/q/take", "", "");
    let third = client.post("/v1/queues/q/jobs", &json!({"payload": 1}));
    assert_eq!(third.status, 200, "{third:?}");
    client
        .post(
            "/v1/queues/q/jobs",
            &json!({"payload": 1, "unique": "mine"}),
        )
        .problem(400, "bad_request");
}

#[test]
fn a_body_over_the_limit_or_of_another_type_is_refused() {
    let desk = desk();
    let large = format!("{{\"payload\": \"{}\"}}", "x".repeat(17 << 20));
    let refused = desk
        .client
        .send("POST", "/v1/queues/q/jobs", "application/json", &large);
    refused.problem(413, "too_large");
    let refused = desk
        .client
        .send("POST", "/v1/queues/q/jobs", "text/plain", "hello");
    refused.problem(415, "wrong_media_type");
    let bad_name = "n".repeat(2_000);
    desk.client
        .post(
            &format!("/v1/queues/{bad_name}/jobs"),
            &json!({"payload": 1}),
        )
        .problem(400, "bad_option");
}

#[test]
fn an_idempotency_key_is_no_unique_key_of_another_program() {
    let desk = desk();
    let keyed = desk.client.with_header("Idempotency-Key", "order-7");
    let first = keyed.post("/v1/queues/q/jobs", &json!({"payload": 1}));
    let job = json!({"payload": 2, "unique": "order-7"});
    let other = desk.client.post("/v1/queues/q/jobs", &job);
    assert_eq!((first.status, other.status), (201, 201), "{other:?}");
    let batch = keyed.post("/v1/queues/q/jobs", &json!([{"payload": 3}]));
    assert_eq!(batch.status, 201, "a batch of one is another request");
}

#[test]
fn a_batch_of_too_many_jobs_stores_none() {
    let desk = desk();
    let jobs = vec![json!({"payload": 1}); 10_001];
    let problem = desk
        .client
        .post("/v1/queues/q/jobs", &json!(jobs))
        .problem(400, "bad_request");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("at most 10000 jobs"), "{detail}");
    assert_eq!(desk.client.get("/v1/queues").json(), json!([]));
}

#[test]
fn a_long_reason_is_cut_before_it_is_stored() {
    let desk = desk();
    desk.client
        .post("/v1/queues/q/jobs", &json!({"payload": 1}));
    let taken = desk
        .client
        .send("POST", "/v1/queues/q/lease?time=30s", "", "");
    let lease = taken.json()["lease"].as_str().unwrap().to_owned();
    let ended = desk.client.post(
        &format!("/v1/leases/{lease}/dead-letter"),
        &json!({"reason": "é".repeat(100_000)}),
    );
    assert_eq!(ended.status, 204, "{ended:?}");
    let job = desk.client.get("/v1/jobs/1").json();
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.len() <= 8 << 10 && reason.starts_with("éé"));
}
