//! What `check` finds on a server.

use std::time::Duration;

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

#[test]
fn transactions_that_are_open_for_long_and_prepared_ones_are_named() {
    run(async {
        let server = Postgres::start(&["max_prepared_transactions = 1"]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        server
            .sql("begin; create table of_another (); prepare transaction 'forgotten'")
            .unwrap();
        let held = server
            .hold("begin isolation level repeatable read; select 1;")
            .unwrap();
        let found = broker.check().await.unwrap();
        assert!(!has(&found, "in one transaction"), "too soon: {found:?}");
        broker.clock().advance(Duration::from_secs(120));
        let found = broker.check().await.unwrap();
        assert!(
            has(
                &found,
                "psql, idle in transaction) has been in one transaction for 12"
            ),
            "{found:?}"
        );
        assert!(
            has(&found, "prepared transaction forgotten has been in one"),
            "{found:?}"
        );
        drop(held);
        server.sql("rollback prepared 'forgotten'").unwrap();
        until("they are over", async || {
            !has(&broker.check().await.unwrap(), "in one transaction")
        })
        .await;
    });
}

#[test]
fn tables_of_dead_rows_and_of_empty_pages_are_named() {
    run(async {
        let server = Postgres::start(&["autovacuum = off"]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        server
            .sql(
                "insert into brigade.statistics_new (minute, queue, task) select now(), 'q', '' from \
                    generate_series(1, 110000);
                 delete from brigade.statistics_new;
                 alter table brigade.ended alter payload set storage external;
                 insert into brigade.ended (id, ended_at, pushed_at, token, priority, attempts, failed, \
                    crashed, interrupted, lost, unserved, state, is_plain, queue, payload) select i, \
                    now(), now(), 1, 0, 1, 1, 0, 0, 0, 0, 6, true, 'q', repeat('x', 9000000) from \
                    generate_series(1, 30) i;
                 delete from brigade.ended where id < 30;",
            )
            .unwrap();
        until("dead rows are found", async || {
            let found = broker.check().await.unwrap();
            has(
                &found,
                "brigade.statistics_new has 110000 dead rows and 0 live ones",
            )
        })
        .await;
        server.sql("vacuum analyze brigade.ended").unwrap();
        until("empty pages are found", async || {
            let found = broker.check().await.unwrap();
            let empty = found
                .iter()
                .find(|finding| finding.what.contains("the table brigade.ended takes"));
            empty.is_some_and(|finding| finding.what.contains("MiB for 1 rows"))
        })
        .await;
    });
}
