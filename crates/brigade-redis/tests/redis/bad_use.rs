//! What bad use gets: an error of a kind, with a sentence that says what to do.

use std::time::Duration;

use brigade::{Broker, Error, ErrorKind, JobState, Settled};
use brigade_testkit::redis::Redis;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::timeout;

use crate::stage::{BOUND, LONG, NOW, all_jobs, plain, start};

async fn refused(url: &str) -> Error {
    timeout(BOUND, Broker::connect(url))
        .await
        .expect("an answer")
        .unwrap_err()
}

#[tokio::test]
async fn bad_use_wrong_password_is_refused_and_never_repeated() {
    let server = Redis::start(&["--requirepass", "right-password"]).unwrap();
    for query in [
        "?password=wrong-password",
        "",
        "?user=unknown&password=wrong-password",
    ] {
        let error = refused(&format!("{}{query}", server.url())).await;
        assert_eq!(
            (error.kind(), error.is_retryable()),
            (ErrorKind::Refused, false),
            "{query}: {error:?}"
        );
        assert!(error.to_string().contains("password"), "{query}: {error}");
        assert!(
            !format!("{error:?}").contains("wrong-password"),
            "a secret is in {error:?}"
        );
    }
    Broker::connect(&format!("{}?password=right-password", server.url()))
        .await
        .unwrap();
}

/// A server quotes the arguments of a command that it does not know.
#[tokio::test]
async fn bad_use_a_password_that_the_server_quotes_is_not_repeated() {
    for command in ["AUTH", "HELLO"] {
        let server =
            Redis::start(&["--rename-command", command, "", "--requirepass", "other"]).unwrap();
        let error = refused(&format!("{}?user=me&password=geheim", server.url())).await;
        let chain = format!("{error:?} {:?} {error}", std::error::Error::source(&error));
        assert!(!chain.contains("geheim"), "{chain}");
    }
}

#[tokio::test]
async fn bad_use_a_password_that_changes_is_told_and_it_goes_on_when_it_is_right_again() {
    let server = Redis::start(&["--requirepass", "first"]).unwrap();
    let broker = Broker::connect(&format!("{}?password=first", server.url()))
        .await
        .unwrap();
    broker.queue("q").push(&1).await.unwrap();
    server
        .ask_as("first", "CONFIG SET requirepass second")
        .unwrap();
    server.ask_as("second", "CLIENT KILL TYPE normal").unwrap();
    // The connection that breaks is reported as broken, the next as refused.
    broker.queue("q").push(&2).await.unwrap_err();
    let error = broker.queue("q").push(&3).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Refused && !error.is_uncertain(),
        "{error:?}"
    );
    server
        .ask_as("second", "CONFIG SET requirepass first")
        .unwrap();
    broker.queue("q").push(&4).await.unwrap();
    assert_eq!(all_jobs(&broker, "q").await.len(), 2);
}

#[tokio::test]
async fn bad_use_a_user_without_the_right_is_told_what_it_needs() {
    let (server, _) = start(&[]).await;
    server
        .ask("ACL SETUSER clerk on >clerk ~brigade:* +@read +@connection +info")
        .unwrap();
    let error = refused(&format!("{}?user=clerk&password=clerk", server.url())).await;
    assert!(
        error.kind() == ErrorKind::Refused && error.to_string().contains("EVALSHA"),
        "{error:?}"
    );
    server
        .ask("ACL SETUSER clerk +@scripting +@write +time -zadd -hincrby")
        .unwrap();
    let error = refused(&format!("{}?user=clerk&password=clerk", server.url())).await;
    assert!(
        error.kind() == ErrorKind::Refused && error.to_string().contains("HINCRBY, ZADD"),
        "{error:?}"
    );
}

/// Rights without which jobs are done all the same are named by `check`, and what they are for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_use_a_user_without_info_config_and_client_is_served_and_told_what_is_not_known() {
    let (server, _) = start(&["--appendonly", "yes"]).await;
    server
        .ask("ACL SETUSER clerk on >clerk ~brigade:* &* +@all -info -config -client")
        .unwrap();
    let broker = Broker::connect(&format!("{}?user=clerk&password=clerk", server.url()))
        .await
        .unwrap();
    let queue = broker.queue("q");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move {
            queue
                .lease(LONG, LONG)
                .await
                .unwrap()
                .unwrap()
                .ack()
                .await
                .unwrap()
        }
    });
    queue.push(&1).await.unwrap();
    assert_eq!(
        tokio::time::timeout(crate::stage::BOUND, waiting)
            .await
            .unwrap()
            .unwrap(),
        Settled::Accepted(None)
    );
    let findings = broker.check().await.unwrap();
    for name in ["INFO may not", "CLIENT may not"] {
        assert!(
            findings.iter().any(|finding| finding.what.contains(name)),
            "{name}: {findings:?}"
        );
    }
    server.ask("ACL SETUSER clerk +info").unwrap();
    let findings = broker.check().await.unwrap();
    assert!(
        findings
            .iter()
            .any(|finding| finding.what.contains("CONFIG GET may not")),
        "{findings:?}"
    );
}

/// The same by the names that a server's configuration takes away.
#[tokio::test]
async fn bad_use_renamed_commands_are_named() {
    let server = Redis::start(&[
        "--rename-command",
        "EVALSHA",
        "",
        "--rename-command",
        "INFO",
        "",
    ])
    .unwrap();
    let error = refused(&server.url()).await;
    assert!(
        error.kind() == ErrorKind::Refused && error.to_string().contains("EVALSHA"),
        "{error:?}"
    );
}

#[tokio::test]
async fn bad_use_a_database_that_is_not_there_is_refused() {
    let server = Redis::start(&["--databases", "2"]).unwrap();
    let error = refused(&format!("{}?db=7", server.url())).await;
    assert!(
        error.kind() == ErrorKind::BadOption && error.to_string().contains("database"),
        "{error:?}"
    );
    Broker::connect(&format!("{}?db=1", server.url()))
        .await
        .unwrap();
}

#[tokio::test]
async fn bad_use_urls_that_are_none() {
    for url in [
        "redis://",
        "redis://host:port",
        "redis://localhost/jobs",
        "redis+unix://",
        "redis:localhost",
    ] {
        let error = refused(url).await;
        assert_eq!(error.kind(), ErrorKind::BadOption, "{url}: {error:?}");
        assert!(error.to_string().contains("URL"), "{url}: {error}");
    }
}

/// Something that answers each connection so, and no Redis server.
async fn other_server(directory: &tempfile::TempDir, answer: &'static str) -> String {
    let path = directory.path().join("socket");
    std::fs::remove_file(&path).ok();
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    if answer == "closes" || stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis+unix://{}", path.display())
}

#[tokio::test]
async fn bad_use_what_is_no_redis_server_is_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    for (answer, kind) in [
        (
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            ErrorKind::Protocol,
        ),
        ("220 mail.example ESMTP\r\n", ErrorKind::Protocol),
        ("\0\0\0\0\0", ErrorKind::Protocol),
        ("closes", ErrorKind::Unreachable),
        ("", ErrorKind::Unreachable),
    ] {
        let url = other_server(&directory, answer).await;
        let error = refused(&url).await;
        assert_eq!(error.kind(), kind, "{answer:?}: {error:?}");
        assert!(
            kind != ErrorKind::Protocol || error.to_string().contains("not Redis"),
            "{answer:?}: {error}"
        );
    }
    let error = refused(&format!("redis+unix://{}/none", directory.path().display())).await;
    assert!(
        error.kind() == ErrorKind::Unreachable && error.is_retryable(),
        "{error:?}"
    );
}

/// A server that says that it is of a version, and nothing else.
async fn old_server(directory: &tempfile::TempDir, version: &'static str) -> String {
    let path = directory.path().join(version);
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut buffer, mut heard) = ([0; 4096], String::new());
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
                    // Each command begins with the number of its words.
                    while let Some(end) = heard
                        .find("\r\n*")
                        .map(|at| at + 2)
                        .or_else(|| heard.ends_with("\r\n").then_some(heard.len()))
                    {
                        let command: String = heard.drain(..end).collect();
                        let info = format!("# Server\r\nredis_version:{version}\r\n");
                        let answer = if command.contains("INFO") && !command.contains("SETINFO") {
                            format!("${}\r\n{info}\r\n", info.len())
                        } else {
                            "-ERR unknown command\r\n".to_owned()
                        };
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    format!("redis+unix://{}", path.display())
}

#[tokio::test]
async fn bad_use_a_server_that_is_too_old_is_refused_by_its_version() {
    let directory = tempfile::tempdir().unwrap();
    for version in ["6.0.16", "5.0.7", "2.8.4"] {
        let error = refused(&old_server(&directory, version).await).await;
        assert!(
            error.kind() == ErrorKind::Unsupported && error.to_string().contains(version),
            "{error:?}"
        );
        assert!(error.to_string().contains("6.2 or newer"), "{error}");
    }
    for version in ["6.2.0", "7.2.4", "10.0.1"] {
        // It is no server that could do more than say its version.
        let error = refused(&old_server(&directory, version).await).await;
        assert!(
            error.kind() != ErrorKind::Unsupported && !error.to_string().contains("too old"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn bad_use_what_is_no_json_in_the_inbox_goes_to_the_dead_letters() {
    for is_taken in [false, true] {
        let (server, broker) = start(&[]).await;
        let queue = broker.queue("q");
        let mut push = redis::cmd("RPUSH");
        push.arg("brigade:{q}:inbox")
            .arg(b"{\"n\":")
            .arg(b"\xff\xfe\"")
            .arg(b"")
            .arg(b"{} {}")
            .arg(b"NaN")
            .arg(b"\"\xc3\x28\"")
            .arg(b"5");
        push.query::<()>(&mut plain(&server)).unwrap();
        if is_taken {
            assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "5");
        } else {
            let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
            assert_eq!(lease.json(), "5");
            assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        }
        assert!(queue.take(NOW).await.unwrap().is_none());
        let dead = broker
            .jobs(Some("q"), Some(JobState::Dead), None, 10)
            .await
            .unwrap();
        assert_eq!(dead.len(), 6, "taken: {is_taken}: {dead:#?}");
        for job in &dead {
            assert!(
                job.reason
                    .as_deref()
                    .is_some_and(|reason| reason.starts_with("its payload is not")),
                "{job:?}"
            );
        }
        assert_eq!(dead[0].payload, "{\"n\":", "a person can see what it was");
        // Given back as it is, it goes the same way.
        assert!(broker.retry(&dead[0].id).await.unwrap());
        assert!(queue.take(NOW).await.unwrap().is_none());
        assert_eq!(
            broker.queues().await.unwrap()[0].jobs,
            [(JobState::Dead, 6)]
        );
    }
}

#[tokio::test]
async fn bad_use_payloads_are_limited_at_the_edge() {
    let (_server, broker) = start(&[]).await;
    let max = broker.capabilities().payload_bytes_max;
    let queue = broker.queue("q");
    // Two of the bytes are quotes.
    queue.push(&"x".repeat(max - 2)).await.unwrap();
    let error = queue.push(&"x".repeat(max - 1)).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::TooLarge && error.to_string().contains(&max.to_string()),
        "{error}"
    );
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json().len(), max);
    assert!(queue.take(NOW).await.unwrap().is_none());
}

#[tokio::test]
async fn bad_use_an_element_of_the_inbox_over_the_limit_goes_to_the_dead_letters() {
    let (server, broker) = start(&[]).await;
    let text = format!(
        "\"{}\"",
        "x".repeat(broker.capabilities().payload_bytes_max)
    );
    redis::cmd("RPUSH")
        .arg("brigade:{q}:inbox")
        .arg(text)
        .arg("5")
        .query::<()>(&mut plain(&server))
        .unwrap();
    assert_eq!(
        broker.queue("q").take(NOW).await.unwrap().unwrap().json(),
        "5"
    );
    let dead = all_jobs(&broker, "q").await;
    assert!(
        dead[0].state == JobState::Dead
            && dead[0]
                .reason
                .as_deref()
                .is_some_and(|reason| reason.contains("bytes")),
        "{:?}",
        dead[0].reason
    );
}

#[tokio::test]
async fn bad_use_names_that_redis_cannot_have() {
    let (server, broker) = start(&[]).await;
    for name in ["a}b", "{a", "{a}", ""] {
        let queue = broker.queue(name);
        let errors = [
            queue.push(&1).await.unwrap_err(),
            queue.take(NOW).await.unwrap_err(),
            queue.lease(LONG, NOW).await.unwrap_err(),
            queue.pause().await.unwrap_err(),
            queue.purge().await.unwrap_err(),
            broker
                .manager(name)
                .run_until(std::future::pending::<()>())
                .await
                .unwrap_err(),
        ];
        for error in errors {
            assert!(
                error.kind() == ErrorKind::BadOption && error.to_string().contains("name"),
                "{name:?}: {error:?}"
            );
        }
    }
    assert_eq!(
        server.ask("DBSIZE").unwrap(),
        ":0\r\n",
        "nothing of it was stored"
    );
}

#[tokio::test]
async fn bad_use_a_batch_is_stored_whole_however_large() {
    let (_server, broker) = start(&[]).await;
    let queue = broker.queue("q");
    let jobs: Vec<_> = (0..brigade_testkit::count(20_000, 300_000))
        .map(|number| queue.job(&number).unwrap())
        .collect();
    let count = jobs.len();
    assert_eq!(broker.push_many(jobs).await.unwrap().len(), count);
    let began = std::time::Instant::now();
    assert_eq!(queue.purge().await.unwrap(), count as u64);
    assert!(began.elapsed() < Duration::from_secs(30));
}
