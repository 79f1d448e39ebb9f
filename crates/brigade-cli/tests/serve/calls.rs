//! Calls, flows and schedules over HTTP.

use std::thread;

use serde_json::{Value, json};

use super::client::{Client, desk};

/// Leases the next job of a queue and is done with it.
fn work(client: &Client, queue: &str, result: &Value) -> Value {
    let leased = client.send(
        "POST",
        &format!("/v1/queues/{queue}/lease?wait=60s"),
        "",
        "",
    );
    assert_eq!(leased.status, 200, "{leased:?}");
    let leased = leased.json();
    let lease = leased["lease"].as_str().unwrap();
    let path = format!("/v1/leases/{lease}/ack");
    assert_eq!(client.post(&path, &json!({ "result": result })).status, 204);
    leased
}

#[test]
fn a_call_gives_the_result_of_the_worker_that_took_it() {
    let desk = desk();
    let client = desk.client.clone();
    let worker = thread::spawn(move || work(&client, "add", &json!(7)));
    let called = desk.client.post("/v1/calls/add", &json!({"args": [3, 4]}));
    assert_eq!((called.status, called.json()), (200, json!({"result": 7})));
    let leased = worker.join().unwrap();
    assert_eq!(
        (&leased["task"], &leased["payload"]),
        (&json!("add"), &json!([3, 4]))
    );
}

#[test]
fn a_call_without_a_value_is_a_problem_of_its_outcome() {
    let desk = desk();
    let client = desk.client.clone();
    let worker = thread::spawn(move || {
        let leased = client
            .send("POST", "/v1/queues/add/lease?wait=60s", "", "")
            .json();
        let lease = leased["lease"].as_str().unwrap();
        client.post(
            &format!("/v1/leases/{lease}/nack"),
            &json!({"reason": "no numbers"}),
        )
    });
    let called = desk.client.post("/v1/calls/add", &json!({"args": []}));
    let problem = called.problem(422, "failed");
    assert!(
        problem["detail"].as_str().unwrap().contains("no numbers"),
        "{problem}"
    );
    assert_eq!(worker.join().unwrap().status, 204);
    let called = desk
        .client
        .post("/v1/calls/add?wait=50ms", &json!({"args": []}));
    called.problem(422, "timed_out");
    // It is cancelled: no worker gets it.
    let queue = || desk.client.get("/v1/queues/add").json()["jobs"]["ready"].clone();
    while queue() == json!(1) {
        thread::yield_now();
    }
    desk.client
        .post("/v1/calls/add?wait=1d", &json!({}))
        .problem(400, "bad_request");
}

#[test]
fn a_call_that_nothing_waits_for_is_a_job_with_its_result() {
    let desk = desk();
    let client = desk.client.with_header("prefer", "respond-async");
    let called = client.post("/v1/calls/add", &json!({"args": [1]}));
    assert_eq!(called.status, 202, "{called:?}");
    let id = called.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(called.header("location"), Some(&*format!("../jobs/{id}")));
    work(&desk.client, "add", &json!("one"));
    let job = desk.client.get(&format!("/v1/jobs/{id}?wait=60s")).json();
    assert_eq!(
        (&job["state"], &job["result"]),
        (&json!("done"), &json!("one"))
    );
}

#[test]
fn a_chain_and_a_group_hand_their_results_on() {
    let desk = desk();
    let chain = json!({"chain": [
        {"queue": "a", "payload": 1},
        {"queue": "b", "payload": ["x"], "keep": "1h"},
    ]});
    let pushed = desk.client.post("/v1/flows", &chain);
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let flow = pushed.json();
    assert_eq!(flow["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(flow["last"], flow["jobs"][1]);
    work(&desk.client, "a", &json!("of a"));
    let leased = work(&desk.client, "b", &json!(null));
    assert_eq!(leased["payload"], json!(["of a", "x"]));
    let group = json!({
        "group": [[{"queue": "a", "payload": 1}], [{"queue": "a", "payload": 2}]],
        "collect": {"queue": "b", "payload": []},
    });
    assert_eq!(
        desk.client.post("/v1/flows", &group).json()["jobs"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    work(&desk.client, "a", &json!(1));
    work(&desk.client, "a", &json!(2));
    assert_eq!(
        work(&desk.client, "b", &json!(null))["payload"],
        json!([[1, 2]])
    );
    for wrong in [
        json!({}),
        json!({"chain": []}),
        json!({"chain": [{"payload": 1}]}),
        json!({"chain": [{"queue": "a", "payload": 1}], "group": []}),
        json!({"group": [[{"queue": "a", "payload": 1}]], "then": {"queue": "b", "payload": 1}, "finally": {"queue": "b", "payload": 1}}),
    ] {
        desk.client
            .post("/v1/flows", &wrong)
            .problem(400, "bad_request");
    }
    let no_array = json!({"chain": [{"queue": "a", "payload": 1}, {"queue": "b", "payload": 1}]});
    desk.client
        .post("/v1/flows", &no_array)
        .problem(400, "bad_arguments");
}

#[test]
fn a_flow_is_looked_at_from_any_of_its_jobs_until_its_end() {
    let desk = desk();
    let group = json!({
        "group": [[{"queue": "a", "payload": 1}], [{"queue": "a", "payload": 2}]],
        "finally": {"queue": "b", "payload": 3, "keep": "1h"},
    });
    let pushed = desk.client.post("/v1/flows", &group).json();
    work(&desk.client, "a", &json!(null));
    let look = |id: &Value| {
        let path = format!("/v1/flows/{}?wait=0", id.as_str().unwrap());
        desk.client.get(&path).json()
    };
    let flow = look(&pushed["jobs"][1]);
    let counts = |flow: &Value| ["total", "done", "missed", "gone"].map(|name| flow[name].clone());
    assert_eq!(counts(&flow), [3, 1, 0, 1].map(|n| json!(n)), "{flow}");
    assert_eq!(
        (&flow["last"], &flow["state"], &flow["is_cut"]),
        (&pushed["last"], &json!("blocked"), &json!(false))
    );
    assert_eq!(flow["jobs"][0]["dependent"], pushed["last"]);
    // From the last one, too, and with a job that ended otherwise.
    let leased = desk
        .client
        .send("POST", "/v1/queues/a/lease", "", "")
        .json();
    let path = format!(
        "/v1/leases/{}/dead-letter",
        leased["lease"].as_str().unwrap()
    );
    desk.client.post(&path, &json!({"reason": "bad"}));
    let flow = look(&pushed["last"]);
    assert_eq!(counts(&flow), [3, 1, 1, 1].map(|n| json!(n)), "{flow}");
    let (client, last) = (desk.client.clone(), pushed["last"].clone());
    let waiting = std::thread::spawn(move || {
        let path = format!("/v1/flows/{}?wait=60s", last.as_str().unwrap());
        client.get(&path).json()
    });
    work(&desk.client, "b", &json!(null));
    let ended = waiting.join().unwrap();
    assert_eq!(
        (&ended["state"], counts(&ended)),
        (&json!("done"), [3, 2, 1, 1].map(|n| json!(n)))
    );
    let alone = desk.client.push("a", &json!({"payload": 1}));
    let alone = look(&json!(alone));
    assert_eq!(counts(&alone), [1, 0, 0, 0].map(|n| json!(n)), "{alone}");
    desk.client
        .get("/v1/flows/999999")
        .problem(404, "unknown_job");
}

#[test]
fn a_schedule_is_set_run_paused_and_removed() {
    let desk = desk();
    let client = &desk.client;
    let job = json!({"queue": "reports", "payload": {"kind": "sales"}, "retries": 3});
    let schedule = json!({"cron": "30 3 * * mon-fri", "zone": "Europe/Berlin", "job": job});
    let set = client.put("/v1/schedules/nightly", &schedule);
    assert_eq!(set.status, 200, "{set:?}");
    assert!(
        set.json()["next"]
            .as_str()
            .unwrap()
            .ends_with(":30:00.000Z")
    );
    let every = json!({"every": "15m", "missed": "skip", "job": job});
    assert_eq!(
        client.put("/v1/schedules/often", &every).json()["every"],
        900.0
    );
    let names: Vec<Value> = client
        .get("/v1/schedules")
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|schedule| schedule["name"].clone())
        .collect();
    assert_eq!(names, ["nightly", "often"]);
    let pushed = client.send("POST", "/v1/schedules/nightly/run", "", "");
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let taken = client
        .send("POST", "/v1/queues/reports/take", "", "")
        .json();
    assert_eq!(taken["payload"], json!({"kind": "sales"}));
    let paused = || client.get("/v1/schedules").json()[0]["paused"].clone();
    for (verb, is_paused) in [("pause", true), ("resume", false)] {
        let sent = client.send("POST", &format!("/v1/schedules/nightly/{verb}"), "", "");
        assert_eq!((sent.status, paused()), (204, json!(is_paused)), "{sent:?}");
        let unknown = client.send("POST", &format!("/v1/schedules/nigthly/{verb}"), "", "");
        unknown.problem(404, "unknown_schedule");
    }
    assert_eq!(client.delete("/v1/schedules/often").status, 204);
    let problem = client
        .delete("/v1/schedules/nigthly")
        .problem(404, "unknown_schedule");
    assert_eq!(problem["did_you_mean"], json!(["nightly"]));
    for wrong in [
        json!({"job": job}),
        json!({"cron": "@daily", "every": 1, "job": job}),
        json!({"every": 60, "zone": "UTC", "job": job}),
    ] {
        client
            .put("/v1/schedules/x", &wrong)
            .problem(400, "bad_request");
    }
    client
        .put(
            "/v1/schedules/x",
            &json!({"cron": "61 * * * *", "job": job}),
        )
        .problem(400, "bad_option");
}

#[test]
fn a_body_that_is_no_object_or_lacks_a_field_is_answered_with_how_it_may_look() {
    let desk = desk();
    let id = desk.client.push("q", &json!({ "payload": 1 }));
    let leased = desk.client.send("POST", "/v1/queues/q/lease", "", "");
    assert_eq!(leased.json()["id"], *id, "{leased:?}");
    let lease = leased.json()["lease"].as_str().unwrap().to_owned();
    let extend = format!("/v1/leases/{lease}/extend");
    let an_extension = r#"for example {"time":"60s"}"#;
    for (path, body, wanted) in [
        ("/v1/calls/add", "[3, 4]", r#"for example {"args":[3,4]"#),
        ("/v1/calls/add", "[[3, 4]]", "expected an object"),
        ("/v1/calls/add", "7", "expected an object"),
        (&extend, "", "the body is empty, expected an object"),
        (&extend, "", an_extension),
        (&extend, "{}", an_extension),
        // Fields in their order are no object.
        (&extend, r#"["60s"]"#, an_extension),
        ("/v1/queues/q/jobs", "7", r#"for example {"delay":"5s""#),
        ("/v1/queues/q/jobs", "[[7]]", "expected an object"),
    ] {
        let answer = desk.client.send("POST", path, "application/json", body);
        let problem = answer.problem(400, "bad_request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(wanted), "{path} {body}: {detail}");
    }
}
