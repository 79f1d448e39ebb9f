//! `amqps://`, on real servers: G46.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::time::{Duration, Instant};

use brigade::{Broker, ErrorKind, Settled};
use brigade_testkit::certificates::Certificates;
use brigade_testkit::places::free_port;
use brigade_testkit::rabbitmq::RabbitMq;
use tokio::net::TcpStream;

const LONG: Duration = Duration::from_secs(60);

/// A server that speaks TLS on a port of its own, and plainly on the other; whether it wants
/// certificates of its clients.
async fn server(files: &Certificates, wants: bool) -> (RabbitMq, u16) {
    let port = free_port();
    let lines = [
        format!("listeners.ssl.1 = 127.0.0.1:{port}"),
        format!("ssl_options.cacertfile = {}", files.file("ca.pem")),
        format!("ssl_options.certfile = {}", files.file("server.pem")),
        format!("ssl_options.keyfile = {}", files.file("server.key")),
        format!(
            "ssl_options.verify = {}",
            if wants { "verify_peer" } else { "verify_none" }
        ),
        format!("ssl_options.fail_if_no_peer_cert = {wants}"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let server = tokio::task::block_in_place(|| RabbitMq::start(&lines)).unwrap();
    // It opens the plain port first.
    let opened = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, opened).await.unwrap();
    (server, port)
}

/// A job goes through, a large one too, also after the connections broke.
async fn works(url: &str, server: &RabbitMq) {
    let broker = Broker::connect(url)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    let queue = broker.queue("emails");
    let large = "x".repeat(3 << 20);
    for payload in ["hello", &large] {
        queue.push(payload).await.unwrap();
        let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
        assert!(lease.payload::<String>().unwrap() == payload);
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    tokio::task::block_in_place(|| server.ctl(&["close_all_connections", "a test"])).unwrap();
    queue.push("again").await.unwrap();
    let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
}

/// What a person reads when that URL does not lead anywhere.
async fn refused(url: &str) -> (ErrorKind, String) {
    let began = Instant::now();
    let error = Broker::connect(url).await.unwrap_err();
    println!("{error} ({:?} after {:?})", error.kind(), began.elapsed());
    (error.kind(), format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g46_the_broker_is_verified() {
    let (ours, theirs) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let (server, port) = server(&ours, false).await;
    let (ca, other) = (ours.file("ca.pem"), theirs.file("ca.pem"));
    works(
        &format!("amqps://guest:guest@localhost:{port}?ca={ca}"),
        &server,
    )
    .await;
    Broker::connect(&format!(
        "amqps://127.0.0.1:{port}?ca={ca}&server_name=localhost"
    ))
    .await
    .unwrap();
    Broker::connect(&format!("amqps://127.0.0.1:{port}?insecure"))
        .await
        .unwrap();

    let (kind, text) = refused(&format!("amqps://localhost:{port}?ca={other}")).await;
    assert!(
        kind == ErrorKind::Refused && text.contains("?ca="),
        "{text}"
    );
    let (kind, text) = refused(&format!("amqps://localhost:{port}")).await;
    assert!(
        matches!(kind, ErrorKind::Refused | ErrorKind::Os) && text.contains("?ca="),
        "{text}"
    );
    let (kind, text) = refused(&format!("amqps://127.0.0.1:{port}?ca={ca}")).await;
    assert!(
        kind == ErrorKind::Refused && text.contains("another name"),
        "{text}"
    );
    let (kind, text) = refused(&format!(
        "amqps://localhost:{port}?ca={}",
        ours.file("nowhere.pem")
    ))
    .await;
    assert!(
        kind == ErrorKind::BadOption && text.contains("nowhere.pem"),
        "{text}"
    );
    let (kind, text) = refused(&format!("amqps://guest:hunter2@localhost:{port}?ca={ca}")).await;
    assert!(
        kind == ErrorKind::Refused
            && text.contains("wrong user or password")
            && !text.contains("hunter2"),
        "{text}"
    );

    one_side_without_tls_is_refused(server.port(), port, &ca).await;

    ours.vouch_expired("expired", "localhost").unwrap();
    for ending in ["pem", "key"] {
        fs::copy(
            ours.file(&format!("expired.{ending}")),
            ours.file(&format!("server.{ending}")),
        )
        .unwrap();
    }
    tokio::task::block_in_place(|| server.ctl(&["eval", "ssl:clear_pem_cache()."])).unwrap();
    let (kind, text) = refused(&format!("amqps://localhost:{port}?ca={ca}")).await;
    assert!(
        kind == ErrorKind::Refused && text.contains("has expired"),
        "{text}"
    );
}

/// One side speaks TLS and the other does not.
async fn one_side_without_tls_is_refused(plain: u16, port: u16, ca: &str) {
    for options in ["ca=a.pem", "insecure", "server_name=localhost"] {
        let (kind, text) = refused(&format!("amqp://localhost:{port}?{options}")).await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("are for TLS: write amqps://"),
            "{text}"
        );
    }
    let (kind, text) = refused(&format!("amqp://localhost:{port}")).await;
    assert!(
        kind == ErrorKind::BadOption && text.contains("write amqps://"),
        "{text}"
    );
    let (kind, text) = refused(&format!("amqps://localhost:{}?ca={ca}", plain)).await;
    assert!(
        kind == ErrorKind::BadOption && text.contains("write amqp://"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g46_the_broker_may_want_a_certificate_of_this_side() {
    let (files, theirs) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let (server, port) = server(&files, true).await;
    let url = format!("amqps://localhost:{port}?ca={}", files.file("ca.pem"));
    works(
        &format!(
            "{url}&cert={}&key={}",
            files.file("client.pem"),
            files.file("client.key")
        ),
        &server,
    )
    .await;

    // Which of the two it is depends on whether the broker's word comes before the end of the
    // connection.
    let is_refused = |kind| matches!(kind, ErrorKind::Refused | ErrorKind::Unreachable);
    let (kind, text) = refused(&url).await;
    assert!(is_refused(kind) && text.contains("?cert="), "{text}");
    let (kind, text) = refused(&format!(
        "{url}&cert={}&key={}",
        theirs.file("client.pem"),
        theirs.file("client.key")
    ))
    .await;
    assert!(is_refused(kind) && text.contains("?cert="), "{text}");
    let (kind, text) = refused(&format!(
        "{url}&cert={}&key={}",
        files.file("client.pem"),
        files.file("server.key")
    ))
    .await;
    assert!(
        kind == ErrorKind::BadOption && text.contains("the key"),
        "{text}"
    );
}
