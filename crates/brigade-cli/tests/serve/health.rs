//! Probes, metrics, and a broker that goes away.

use std::time::Duration;

use brigade_testkit::facts::wait_until;
use brigade_testkit::http_server::HttpServer;
use brigade_testkit::redis::Redis;
use serde_json::json;

use super::client::{BINARY, Client, desk, desk_with};

#[test]
fn a_server_is_well_until_jobs_wait_for_too_long() {
    let desk = desk_with(&["--auth", "none", "--healthy-wait", "1ms"]);
    let client = &desk.client;
    assert_eq!(client.get("/readyz").text, "ok\n");
    assert_eq!(
        client.get("/health").json(),
        json!({"well": true, "problems": []})
    );
    client.push("q", &json!({"payload": 1}));
    let unwell = wait_until(Duration::from_secs(60), || {
        client.get("/health").status == 503
    });
    assert!(unwell.is_some());
    let health = client.get("/health").json();
    assert_eq!(health["problems"][0]["kind"], "waiting");
    assert_eq!(health["problems"][0]["queue"], "q");
    let text = health["problems"][0]["text"].as_str().unwrap();
    assert!(text.contains("no consumer serves it"), "{text}");
    client.send("POST", "/v1/queues/q/pause", "", "");
    assert_eq!(client.get("/health").status, 200);
    // A server that is ready need not be well.
    assert_eq!(client.get("/readyz").status, 200);
}

#[test]
fn an_autoscaler_gets_a_number_also_of_a_queue_without_jobs() {
    let desk = desk();
    let scale = |queue: &str| desk.client.get(&format!("/v1/queues/{queue}/scale")).json();
    assert_eq!(scale("q"), json!({"value": 0, "ready": 0, "running": 0}));
    for n in 0..3 {
        desk.client.push("q", &json!({"payload": n}));
    }
    desk.client.send("POST", "/v1/queues/q/lease", "", "");
    assert_eq!(scale("q"), json!({"value": 3, "ready": 2, "running": 1}));
}

#[test]
fn the_metrics_are_well_formed_and_have_waiting_and_running_jobs() {
    let desk = desk();
    desk.client.push("a\"b\\c", &json!({"payload": 1}));
    desk.client.push("q", &json!({"payload": 1}));
    desk.client.push("q", &json!({"payload": 2}));
    desk.client.send("POST", "/v1/queues/q/lease", "", "");
    let answer = desk.client.get("/metrics");
    let media = answer.header("content-type").unwrap();
    assert!(media.starts_with("application/openmetrics-text"), "{media}");
    check_open_metrics(&answer.text);
    for line in [
        "brigade_queue_jobs{queue=\"q\",state=\"ready\"} 1",
        "brigade_queue_jobs{queue=\"q\",state=\"leased\"} 1",
        "brigade_queue_jobs{queue=\"a\\\"b\\\\c\",state=\"ready\"} 1",
        "brigade_queue_paused{queue=\"q\"} 0",
    ] {
        assert!(
            answer.text.lines().any(|found| found == line),
            "{line}\n{}",
            answer.text
        );
    }
    let requests =
        "brigade_http_requests_total{route=\"/v1/queues/{queue}/jobs\",status=\"201\"} 3";
    assert!(answer.text.contains(requests), "{}", answer.text);
}

/// What `promtool check metrics` looks for, as far as it can be seen in one text: every sample
/// belongs to the family before it, has a help text and a type, and is there once; histograms are
/// cumulative and end with `+Inf`.
fn check_open_metrics(text: &str) {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut family = String::new();
    let (mut families, mut samples) = (Vec::new(), Vec::new());
    let mut kind = String::new();
    let mut last_bucket: Option<(String, f64)> = None;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(
                !help.is_empty() && !families.contains(&name.to_owned()),
                "{line}"
            );
            families.push(name.to_owned());
            family = name.to_owned();
            continue;
        }
        if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, of) = of.split_once(' ').unwrap();
            assert_eq!(name, family, "{line}");
            kind = of.to_owned();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let name = sample.split('{').next().unwrap();
        assert!(
            name.starts_with(&family) && name.starts_with("brigade_"),
            "{line}"
        );
        let ending = &name[family.len()..];
        let endings: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(endings.contains(&ending), "{line}: {kind}");
        assert!(
            !samples.contains(&sample.to_owned()),
            "{line} is there twice"
        );
        samples.push(sample.to_owned());
        if ending == "_bucket" {
            let series = sample.split("le=").next().unwrap().to_owned();
            if let Some((before, count)) =
                last_bucket.take().filter(|(before, _)| *before == series)
            {
                assert!(
                    value >= count,
                    "{line} is less than the bucket before it in {before}"
                );
            }
            last_bucket = Some((series, value));
        }
    }
    assert!(families.len() >= 5, "{families:?}");
}

#[test]
fn a_broker_that_goes_away_is_503_until_it_is_back() {
    let mut redis = Redis::start(&[]).unwrap();
    let server = HttpServer::start(BINARY, &redis.url(), ["--auth", "none"]).unwrap();
    let client = Client::new(server.base().unwrap());
    client.push("q", &json!({"payload": 1}));
    redis.kill().unwrap();
    let away = client.get("/v1/queues");
    assert_eq!(away.status, 503, "{away:?}");
    assert!(away.header("retry-after").is_some());
    assert_eq!(away.json()["retryable"], true);
    assert_eq!(client.get("/readyz").status, 503);
    assert_eq!(client.get("/livez").status, 200);
    assert_eq!(
        client.get("/health").json()["problems"][0]["kind"],
        "unreachable"
    );
    redis.start_again().unwrap();
    let back = wait_until(Duration::from_secs(60), || {
        client.get("/v1/queues").status == 200
    });
    assert!(back.is_some(), "{:?}", client.get("/v1/queues"));
    assert_eq!(client.get("/readyz").status, 200);
}

#[test]
fn a_server_waits_for_its_broker_and_manages_queues_for_plain_clients() {
    let mut redis = Redis::start(&[]).unwrap();
    let url = redis.url();
    redis.kill().unwrap();
    let starting = std::thread::spawn(move || {
        let arguments = ["--auth", "none", "--wait-for-broker", "--manager", "emails"];
        HttpServer::start(BINARY, &url, arguments).unwrap()
    });
    redis.start_again().unwrap();
    let server = starting.join().unwrap();
    let client = Client::new(server.base().unwrap());
    client.push("emails", &json!({"payload": {"to": "ann"}}));
    redis.ask("RPUSH brigade:{emails}:free worker-1").unwrap();
    let got = redis.ask("BLPOP brigade:{emails}:to:worker-1 60").unwrap();
    assert!(got.contains("ann"), "{got}");
}
