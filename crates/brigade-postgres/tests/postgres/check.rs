//! What `check` finds on a server.

use brigade::{Broker, Finding, Level};
use brigade_testkit::postgres::Postgres;

use crate::stage::{run, until};

fn has(found: &[Finding], part: &str) -> bool {
    found.iter().any(|finding| finding.what.contains(part))
}

#[test]
fn a_healthy_server_has_no_findings_but_how_consumers_are_woken() {
    run(async {
        let server = Postgres::start(&["fsync = on"]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        let found = broker.check().await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].level == Level::Note && has(&found, "LISTEN"),
            "{found:?}"
        );
    });
}

#[test]
fn settings_that_lose_jobs_or_slow_them_down_are_named() {
    run(async {
        let server = Postgres::start(&[
            "full_page_writes = off",
            "synchronous_commit = off",
            "autovacuum = off",
            "statement_timeout = '5s'",
            "idle_in_transaction_session_timeout = '1s'",
        ])
        .unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        let found = broker.check().await.unwrap();
        for part in [
            "fsync is off",
            "full_page_writes is off",
            "synchronous_commit is off",
            "autovacuum is off",
            "statement_timeout is 5s",
            "idle_in_transaction_session_timeout is 1s",
        ] {
            assert!(has(&found, part), "{part}: {found:?}");
        }
        assert_eq!(found[0].level, Level::Problem);
    });
}

#[test]
fn idle_slots_are_named() {
    run(async {
        let server = Postgres::start(&["wal_level = logical"]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        server
            .sql("select pg_create_physical_replication_slot('forgotten', true)")
            .unwrap();
        let found = broker.check().await.unwrap();
        assert!(has(&found, "slot forgotten"), "{found:?}");
    });
}

#[test]
fn a_user_who_does_not_see_the_others_is_said_so() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        server
            .sql("create role app login; create schema brigade authorization app")
            .unwrap();
        let url = server.url_of("app", "postgres");
        let broker = Broker::connect(&url).await.unwrap();
        let found = broker.check().await.unwrap();
        assert!(has(&found, "does not see other users'"), "{found:?}");
    });
}

#[test]
fn tables_without_autovacuum_are_named() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        server
            .sql("alter table brigade.jobs set (autovacuum_enabled = false)")
            .unwrap();
        until("it is found", async || {
            let found = broker.check().await.unwrap();
            has(&found, "autovacuum is off for the table brigade.jobs")
        })
        .await;
    });
}
