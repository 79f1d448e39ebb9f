//! A broker that goes away, or refuses, in the middle of a request.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use brigade_testkit::facts::wait_until;
use brigade_testkit::http_server::HttpServer;
use brigade_testkit::redis::Redis;
use serde_json::{Value, json};

use super::client::{BINARY, Client};

fn serve(redis: &Redis, arguments: &[&str]) -> (HttpServer, Client) {
    let arguments = ["--auth", "none"].iter().chain(arguments);
    let server = HttpServer::start(BINARY, &redis.url(), arguments).unwrap();
    let client = Client::new(server.base().unwrap());
    (server, client)
}

#[test]
fn a_cancel_that_was_accepted_is_answered_as_asked_although_the_wait_for_its_end_fails() {
    let mut redis = Redis::start(&[]).unwrap();
    let (_server, client) = serve(&redis, &[]);
    let id = client.push("q", &json!({"payload": 1}));
    let leased = client.send("POST", "/v1/queues/q/lease?time=10m", "", "");
    assert_eq!(leased.status, 200, "{leased:?}");
    let path = format!("/v1/jobs/{}", id.replace('/', "%2F"));
    let canceller = {
        let (client, path) = (client.clone(), format!("{path}/cancel"));
        thread::spawn(move || client.post(&path, &json!({"reason": "twice", "wait": "240s"})))
    };
    let is_asked = || client.get(&path).json()["cancel"] == "twice";
    assert!(wait_until(Duration::from_secs(60), is_asked).is_some());
    redis.kill().unwrap();
    let cancelled = canceller.join().unwrap();
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let cancelled = cancelled.json();
    assert_eq!(
        (&cancelled["outcome"], &cancelled["state"]),
        (&json!("asked"), &Value::Null)
    );
}

#[test]
fn a_server_that_cannot_manage_its_queues_any_more_answers_its_requests_and_ends_with_the_error() {
    let redis = Redis::start(&[]).unwrap();
    let (mut server, client) = serve(&redis, &["--manager", "mails"]);
    let mut upload = TcpStream::connect(client.base.strip_prefix("http://").unwrap()).unwrap();
    let head = "POST /v1/queues/q/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-length: 13\r\nexpect: 100-continue\r\n\r\n";
    upload.write_all(head.as_bytes()).unwrap();
    // The server reads the body: its request is running.
    let mut asked = [0; 25];
    upload.read_exact(&mut asked).unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100 "));
    redis.ask("CONFIG SET requirepass another").unwrap();
    redis.ask_as("another", "CLIENT KILL TYPE normal").unwrap();
    let is_ending = || server.log().contains("the server ends:");
    assert!(
        wait_until(Duration::from_secs(60), is_ending).is_some(),
        "{}",
        server.log()
    );
    upload.write_all(b"{\"payload\":1}").unwrap();
    let mut answer = String::new();
    upload.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("\"refused\""),
        "{answer}"
    );
    let status = server.wait(Duration::from_secs(60)).unwrap();
    assert!(!status.success(), "{}", server.log());
}
