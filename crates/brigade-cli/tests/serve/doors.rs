//! What a server refuses at its start, and what it bears while it runs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use brigade_testkit::facts::wait_until;
use brigade_testkit::http_server::HttpServer;
use serde_json::json;

use super::client::{BINARY, desk, url_in};

/// What `brigade serve` writes when it does not start.
fn refused(arguments: &[&str]) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY)
        .arg("serve")
        .args(arguments)
        .env("BRIGADE_URL", url_in(&directory))
        .env("XDG_DATA_HOME", directory.path())
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn another_address_than_loopback_needs_tls_and_a_credential() {
    let (code, text) = refused(&["--listen", "0.0.0.0:0"]);
    assert!(
        code == 2 && text.contains("--tls-cert") && text.contains("--insecure"),
        "{text}"
    );
    let (code, text) = refused(&["--listen", "0.0.0.0:0", "--insecure", "--auth", "none"]);
    assert!(code == 2 && text.contains("loopback"), "{text}");
    let (code, text) = refused(&["--tls-cert", "x.pem"]);
    assert!(code == 2 && text.contains("--tls-key"), "{text}");
    let (code, text) = refused(&["--tls-cert", "no.pem", "--tls-key", "no.pem"]);
    assert!(code == 2 && text.contains("no.pem"), "{text}");
}

#[test]
fn a_token_file_that_is_none_is_refused_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    let refused = |text: &str| {
        std::fs::write(&file, text).unwrap();
        refused(&["--listen", "127.0.0.1:0", "--auth", file.to_str().unwrap()])
    };
    let (code, text) = refused("# empty\n");
    assert!(code == 2 && text.contains("brigade token"), "{text}");
    let (code, text) = refused("ann boss sha256:00\n");
    assert!(
        code == 2 && text.contains("line 1") && text.contains("boss"),
        "{text}"
    );
}

#[test]
fn two_servers_cannot_have_one_port() {
    let desk = desk();
    let address = desk.client.base.strip_prefix("http://").unwrap();
    let (code, text) = refused(&["--auth", "none", "--listen", address]);
    assert!(
        code == 1 && text.contains("cannot listen on") && text.contains("--listen"),
        "{text}"
    );
    assert_eq!(desk.client.get("/v1/queues").status, 200);
}

#[test]
fn a_broker_that_is_away_at_the_start_is_an_error_that_says_what_to_do() {
    let output = Command::new(BINARY)
        .args([
            "serve",
            "--auth",
            "none",
            "--listen",
            "127.0.0.1:0",
            "--broker",
            "redis://127.0.0.1:1",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("--wait-for-broker"),
        "{text}"
    );
}

#[test]
fn a_client_that_sends_nonsense_or_leaves_does_not_stop_the_server() {
    let desk = desk();
    let address = desk.client.base.strip_prefix("http://").unwrap();
    for beginning in [
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/queues/q/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{\"pay",
        "POST /v1/queues/q/take?wait=60s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n",
        &format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(1_000)),
        &format!("GET /{} HTTP/1.1\r\n", "x".repeat(200_000)),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        // The server may have refused it before all of it is written.
        stream.write_all(beginning.as_bytes()).ok();
        drop(stream);
    }
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nx: \x01\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(desk.client.get("/v1/queues").status, 200);
}

#[test]
fn a_body_that_is_refused_while_it_is_sent_does_not_cost_the_answer() {
    let desk = desk();
    let address = desk.client.base.strip_prefix("http://").unwrap();
    // More than sockets hold, so the client is still sending when the server has its answer.
    let body = vec![b' '; 40 << 20];
    for (path, status) in [("/v1/queues/q/jobs", "413"), ("/v1/nowhere", "404")] {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        // The connection goes on.
        let next = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(next.as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        assert!(
            answers.starts_with(&format!("HTTP/1.1 {status}")) && answers.contains("HTTP/1.1 200"),
            "{answers}"
        );
    }
}

#[test]
fn a_leased_job_on_its_way_to_a_client_that_is_gone_comes_back() {
    let desk = desk();
    let address = desk.client.base.strip_prefix("http://").unwrap();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = "POST /v1/queues/q/lease?wait=60s&time=1h HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
    }
    // The waits of clients that are gone end, so the job is this one's sooner or later, although
    // their leases would last for an hour.
    desk.client.push("q", &json!({"payload": 1}));
    let leased = desk
        .client
        .send("POST", "/v1/queues/q/lease?wait=60s", "", "");
    assert_eq!(leased.status, 200, "{leased:?}");
}

#[test]
fn a_request_whose_client_leaves_is_in_the_access_log() {
    let desk = desk();
    let address = desk.client.base.strip_prefix("http://").unwrap();
    let request = "POST /v1/queues/left/take?wait=240s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    let mut held = Duration::from_millis(10);
    // A client that leaves before the server has read its request is no request: each stays longer.
    let is_there = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(held);
        held = (2 * held).min(Duration::from_secs(2));
        drop(stream);
        let log = desk.server.log();
        let mut lines = log.lines();
        lines.any(|line| {
            line.contains("/v1/queues/left/take")
                && line.contains("status=499")
                && line.contains("anyone")
        })
    };
    assert!(
        wait_until(Duration::from_secs(60), is_there).is_some(),
        "{}",
        desk.server.log()
    );
}

#[test]
fn systemd_is_notified() {
    use std::os::unix::net::UnixDatagram;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut child = Command::new(BINARY)
        .args(["serve", "--auth", "none", "--listen", "127.0.0.1:0"])
        .env("BRIGADE_URL", url_in(&directory))
        .env("NOTIFY_SOCKET", &path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let state = || {
        let mut buffer = [0; 100];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    assert_eq!(state(), "READY=1");
    assert!(brigade_testkit::facts::signal(
        child.id(),
        rustix::process::Signal::TERM
    ));
    assert_eq!(state(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_server_that_cannot_be_started_is_an_error_of_the_kit() {
    let error =
        HttpServer::start(BINARY, "sqlite:/no/where/jobs.db", ["--auth", "none"]).unwrap_err();
    assert!(error.to_string().contains("cannot"), "{error}");
}
