//! Making the schema: once, by the first that comes, and never against a newer one.

use brigade::{Broker, ErrorKind};
use brigade_testkit::postgres::Postgres;

use crate::stage::{refused, run, text, works};

#[test]
fn programs_that_start_together_make_one_schema() {
    run(async {
        let server = Postgres::start(&["max_connections = 200"]).unwrap();
        let url = format!("{}?connections=2", server.url());
        let starting: Vec<_> = (0..16)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move { works(&url).await })
            })
            .collect();
        for started in starting {
            started.await.unwrap();
        }
        assert!(!Broker::migrate(&url).await.unwrap());
    });
}

/// The tables, indexes and functions of the schema, each with the transaction that last changed it.
const OBJECTS: &str = "select string_agg(name || ' ' || changed, ',' order by name, changed) from (
    select proname::text as name, xmin::text as changed from pg_proc where pronamespace = 'brigade'::regnamespace
    union all select relname::text, xmin::text from pg_class where relnamespace = 'brigade'::regnamespace) objects";

#[test]
fn a_newer_schema_is_refused_and_nothing_is_written() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        assert!(Broker::migrate(&server.url()).await.unwrap());
        server
            .sql(
                "create or replace function brigade.schema_version() returns integer language sql \
                    immutable as 'select 1000000'",
            )
            .unwrap();
        let before = server.sql(OBJECTS).unwrap();
        let (kind, said) = refused(&server.url()).await;
        assert_eq!(kind, ErrorKind::Unsupported, "{said}");
        assert!(
            said.contains("newer") && said.contains("update the program"),
            "{said}"
        );
        let error = Broker::migrate(&server.url()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert_eq!(server.sql(OBJECTS).unwrap(), before);
        let version = server.sql("select brigade.schema_version()").unwrap();
        assert_eq!(version, "1000000");
    });
}

#[test]
fn a_schema_of_another_program_is_left_alone() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        server
            .sql("create schema brigade; create table brigade.soldiers (name text)")
            .unwrap();
        let (kind, said) = refused(&server.url()).await;
        assert_eq!(kind, ErrorKind::Unsupported, "{said}");
        assert!(said.contains("another program"), "{said}");
        let tables = "select count(*) from pg_tables where schemaname = 'brigade'";
        assert_eq!(server.sql(tables).unwrap(), "1");
    });
}

#[test]
fn a_user_without_the_right_learns_who_has_to_make_the_schema() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        server.sql("create role app login").unwrap();
        let url = server.url_of("app", "postgres");
        let (kind, said) = refused(&url).await;
        assert_eq!(kind, ErrorKind::Refused, "{said}");
        assert!(
            said.contains("grant create") && said.contains("brigade migrate"),
            "{said}"
        );
        // An administrator runs what was printed for this database.
        let sql = Broker::migration(&server.url()).await.unwrap();
        let (administrator, connection) =
            tokio_postgres::connect(&server.url(), tokio_postgres::NoTls)
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        administrator.batch_execute(&sql).await.unwrap();
        drop(administrator);
        connection.await.unwrap().unwrap();
        assert_eq!(Broker::migration(&server.url()).await.unwrap(), "");
        works(&server.url()).await;
        let (kind, said) = refused(&url).await;
        assert_eq!(kind, ErrorKind::Refused, "{said}");
        assert!(said.contains("usage"), "{said}");
    });
}

#[test]
fn an_empty_schema_that_was_made_for_a_user_is_filled() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        server
            .sql("create role app login; create schema brigade authorization app")
            .unwrap();
        works(&server.url_of("app", "postgres")).await;
    });
}

#[test]
fn a_schema_that_lost_a_part_is_named() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        broker.queue("q").push(&1).await.unwrap();
        server.sql("drop table brigade.jobs cascade").unwrap();
        let error = broker.queue("q").push(&2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(
            text(&error).contains("parts of it were removed"),
            "{error:?}"
        );
        assert!(!error.is_uncertain());
    });
}
