//! What bad use gets: typed errors that say what to do, and never the password.

use brigade::{Broker, ErrorKind};
use brigade_testkit::postgres::{Postgres, Setup};

use crate::stage::{refused, run, text, until, works};

#[test]
fn a_server_is_reached_by_tcp_and_by_its_socket() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        works(&server.url()).await;
        works(&server.socket_url()).await;
        works(&server.url().replace("postgres://", "postgresql://")).await;
    });
}

#[test]
fn a_wrong_password_is_refused_and_never_shown() {
    run(async {
        let access = ["host all locked 127.0.0.1/32 scram-sha-256"];
        let setup = Setup {
            access: &access,
            ..Setup::default()
        };
        let server = Postgres::start_with(&setup).unwrap();
        server
            .sql("create role locked superuser login password 'right-one'")
            .unwrap();
        let url = |login: &str| format!("postgres://{login}@127.0.0.1:{}/postgres", server.port());
        works(&url("locked:right-one")).await;
        let (kind, said) = refused(&url("locked:wrong-one")).await;
        assert_eq!(kind, ErrorKind::Refused, "{said}");
        assert!(
            said.contains("wrong user or password") && !said.contains("wrong-one"),
            "{said}"
        );
        let (kind, said) = refused(&url("locked")).await;
        assert_eq!(kind, ErrorKind::Refused, "{said}");
        assert!(said.contains("wants a password"), "{said}");
    });
}

#[test]
fn a_server_that_is_not_there_or_has_not_that_database_says_so() {
    run(async {
        let mut server = Postgres::start(&[]).unwrap();
        let (kind, said) = refused(&server.url_of("postgres", "shop")).await;
        assert_eq!(kind, ErrorKind::Refused, "{said}");
        assert!(said.contains("no database of this name"), "{said}");
        let (kind, said) = refused(&server.url_of("stranger", "postgres")).await;
        assert_eq!(kind, ErrorKind::Refused, "{said}");
        server.kill().unwrap();
        let (kind, said) = refused(&server.url()).await;
        assert_eq!(kind, ErrorKind::Unreachable, "{said}");
        assert!(said.contains("nothing listens"), "{said}");
        let (kind, said) = refused("postgres:///x?host=/nowhere").await;
        assert_eq!(kind, ErrorKind::Unreachable, "{said}");
        assert!(said.contains("directory of its socket"), "{said}");
    });
}

#[test]
fn another_program_on_the_port_is_found_out() {
    run(async {
        let redis = brigade_testkit::places::start_at(brigade_testkit::places::free_port(), &[]);
        let redis = redis.unwrap();
        let port = redis.ask("CONFIG GET port").unwrap();
        let port = port.lines().nth(4).unwrap().to_owned();
        let url = format!("postgres://me@127.0.0.1:{port}/x?connect_timeout=2");
        let (kind, said) = refused(&url).await;
        assert!(
            matches!(kind, ErrorKind::Unreachable | ErrorKind::Protocol),
            "{said}"
        );
    });
}

#[test]
fn a_standby_is_refused_where_it_would_have_to_write() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let standby = server.start_standby().unwrap();
        let (kind, said) = refused(&standby.url()).await;
        assert_eq!(kind, ErrorKind::Unreachable, "{said}");
        assert!(said.contains("standby"), "{said}");
        let read_write = format!("{}?target_session_attrs=read-write", standby.url());
        let (kind, said) = refused(&read_write).await;
        assert_eq!(kind, ErrorKind::Unreachable, "{said}");
        assert!(said.contains("primary"), "{said}");

        // Once the schema is there, a standby can be looked at.
        let broker = Broker::connect(&server.url()).await.unwrap();
        broker.queue("q").push(&1).await.unwrap();
        until("the standby follows", async || {
            Broker::connect(&standby.url()).await.is_ok()
        })
        .await;
        let reader = Broker::connect(&standby.url()).await.unwrap();
        let error = reader.queue("q").push(&2).await.unwrap_err();
        assert!(
            text(&error).contains("standby") && !error.is_uncertain(),
            "{error:?}"
        );
    });
}

#[test]
fn limits_of_time_that_are_too_low_say_what_to_raise() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        // A user of its own: the tools of this test are those of another.
        server.sql("create role limited superuser login").unwrap();
        let url = server.url_of("limited", "postgres");
        let broker = Broker::connect(&url).await.unwrap();
        let queue = broker.queue("q");
        queue.push(&1).await.unwrap();
        server
            .sql("alter role limited set statement_timeout = '50ms'")
            .unwrap();
        server.terminate_connections().unwrap();
        let lock = server
            .hold("begin; lock table brigade.jobs in access exclusive mode;")
            .unwrap();
        let pushed = async || queue.push(&2).await;
        let mut last = None;
        until("a push is ended by the limit", async || {
            let error = pushed().await.err();
            let is_limit = error
                .as_ref()
                .is_some_and(|error| error.kind() == ErrorKind::Timeout);
            last = error;
            is_limit
        })
        .await;
        let error = last.unwrap();
        assert!(text(&error).contains("statement_timeout"), "{error:?}");
        assert!(!error.is_uncertain() && error.is_retryable());
        drop(lock);
        until("jobs go on", async || pushed().await.is_ok()).await;
    });
}
