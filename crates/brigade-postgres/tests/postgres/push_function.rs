//! What applications call in the database refuses what no consumer and no chore can work with.

use brigade::postgres::push_all_in;
use tokio_postgres::Client;

use crate::stage::{fresh_broker, run, session};

/// What the server says to this statement; empty if it took it.
async fn refusal(client: &Client, sql: &str) -> String {
    let refused = client.batch_execute(sql).await.err();
    let error = refused.as_ref().and_then(|error| error.as_db_error());
    error.map_or(String::new(), |error| error.message().to_owned())
}

#[test]
fn push_refuses_values_that_no_consumer_can_read() {
    run(async {
        let (_broker, url) = fresh_broker().await;
        let client = session(&url).await;
        for (options, part) in [
            (r#"{"retries": -1}"#, "retries is a number from 0"),
            (r#"{"memory": -5}"#, "memory is a number of bytes"),
            (r#"{"at": "1969-12-31"}"#, "at is a time from 1970 to 9999"),
            (r#"{"at": "infinity"}"#, "at is a time from 1970 to 9999"),
            (r#"{"backoff": 5}"#, "backoff is an object"),
            (r#"{"backoff": {"bse": 1}}"#, "backoff has base and cap"),
            (r#"{"traceparent": "x"}"#, "traceparent has 55 characters"),
        ] {
            let said = refusal(
                &client,
                &format!("select brigade.push('q', '1', '{options}')"),
            )
            .await;
            assert!(said.contains(part), "{options}: {said}");
        }
        let good = r#"{"retries": 0, "memory": 0, "at": "1970-01-01", "backoff": {"base": 1, "cap": "2 s"},
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#;
        let said = refusal(&client, &format!("select brigade.push('q', '1', '{good}')")).await;
        assert_eq!(said, "");
    });
}

/// A call of `push_many` for one job, with these arguments.
fn push_many(given: &[(&str, &str)]) -> String {
    let names = "queues tasks payloads options priorities dues delays withins keeps keys partitions \
        uniques unique_fors dependents kinds announces";
    let argument = |name: &str| {
        let given = given.iter().find(|(given, _)| *given == name);
        let value = match (name, given) {
            (_, Some((_, value))) => value,
            ("queues", None) => "array['q']",
            ("payloads", None) => "array['1']",
            ("announces", None) => "true",
            _ => "null",
        };
        format!("{name} => {value}")
    };
    let arguments: Vec<String> = names.split_whitespace().map(argument).collect();
    format!("select brigade.push_many({})", arguments.join(", "))
}

#[test]
fn push_many_refuses_what_chores_and_settlements_could_not_work_with() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let client = session(&url).await;
        let long = "array[repeat('x', 20000000)]";
        for given in [
            ("dues", "array['infinity'::timestamptz]"),
            ("keeps", "array[9000000000000000000]"),
            ("payloads", long),
            ("options", long),
            ("queues", "array['']"),
            ("queues", long),
            ("tasks", long),
            ("keys", long),
            ("partitions", long),
            ("uniques", long),
        ] {
            let said = refusal(&client, &push_many(&[given])).await;
            assert_ne!(said, "", "{given:?}");
        }
        for times in [
            ("delays", "array[9000000000000000000, null]"),
            ("withins", "array[9000000000000000000, null]"),
            ("dues", "array['infinity'::timestamptz, null]"),
        ] {
            let of_flow = [
                ("queues", "array['q', 'q']"),
                ("payloads", "array['1', '2']"),
                ("dependents", "array[null, 1]"),
                ("kinds", "array['finally', null]"),
                times,
            ];
            let said = refusal(&client, &push_many(&of_flow)).await;
            assert_ne!(said, "", "{times:?}");
        }
        assert_eq!(broker.jobs(None, None, None, 10).await.unwrap().len(), 0);
        assert_eq!(refusal(&client, &push_many(&[])).await, "");
    });
}

#[test]
fn pushing_no_jobs_within_a_transaction_leaves_it_as_it_is() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let mut client = session(&url).await;
        let mut transaction = client.transaction().await.unwrap();
        let none: [brigade::Job; 0] = [];
        let pushed = push_all_in(&mut transaction, none).await.unwrap();
        assert_eq!(pushed.len(), 0);
        let none = "select * from brigade.push_jobs('[]')";
        assert_eq!(transaction.query(none, &[]).await.unwrap().len(), 0);
        let push = "select brigade.push('q', '1')";
        transaction.execute(push, &[]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(broker.jobs(None, None, None, 10).await.unwrap().len(), 1);
    });
}
