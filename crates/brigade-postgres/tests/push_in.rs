//! Jobs that applications push within transactions of their own: by tokio-postgres, by sqlx, by
//! SQL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

use std::error::Error as StdError;
use std::time::Duration;

use brigade::postgres::{PushInPostgres as _, push_all_in};
use brigade::{Broker, ErrorKind, Job, JobState};
use brigade_testkit::postgres::Postgres;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tokio_postgres::{Client, NoTls};

type Result<T = ()> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

const WAIT: Duration = Duration::from_secs(30);

struct Opened {
    broker: Broker,
    url: String,
    client: Client,
}

/// A fresh database with the schema, a table of an application's own, and a connection of its own.
async fn opened() -> Result<Opened> {
    let url = Postgres::shared()?.fresh_database()?;
    let broker = Broker::connect(&url).await?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute("create table orders (id bigserial primary key, item text not null)")
        .await?;
    Ok(Opened {
        broker,
        url,
        client,
    })
}

impl Opened {
    async fn count(&self, sql: &str) -> Result<i64> {
        Ok(self.client.query_one(sql, &[]).await?.try_get(0)?)
    }

    async fn stored_jobs(&self) -> Result<i64> {
        self.count("select count(*) from brigade.jobs").await
    }

    /// The SQLSTATE and the text with which the server refuses a statement.
    async fn refused(&self, sql: &str) -> (String, String) {
        let error = self.client.batch_execute(sql).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        (error.code().code().to_owned(), error.message().to_owned())
    }
}

fn mail(order: i64) -> Job {
    Job::new("mail", None, json!({ "order": order }).to_string())
}

#[tokio::test]
async fn a_job_and_the_row_that_made_it_necessary_are_committed_or_not_together() -> Result {
    let mut opened = opened().await?;
    let mut tx = opened.client.transaction().await?;
    let insert = "insert into orders (item) values ('soap') returning id";
    let order: i64 = tx.query_one(insert, &[]).await?.try_get(0)?;
    mail(order).push_in(&mut tx).await?;
    tx.rollback().await?;
    assert_eq!(opened.stored_jobs().await?, 0);
    assert_eq!(opened.count("select count(*) from orders").await?, 0);

    let mut tx = opened.client.transaction().await?;
    let order: i64 = tx.query_one(insert, &[]).await?.try_get(0)?;
    let pushed = mail(order).label("hello").push_in(&mut tx).await?;
    // A consumer that waits already is woken by the commit, and finds nothing before it.
    let queue = opened.broker.queue("mail");
    assert!(queue.take(Duration::ZERO).await?.is_none());
    tx.commit().await?;
    let job = queue.take(WAIT).await?.unwrap();
    assert_eq!(job.id(), pushed.id());
    assert_eq!(job.payload::<Value>()?, json!({ "order": order }));
    Ok(())
}

#[tokio::test]
async fn a_program_of_sqlx_rolls_back_and_commits() -> Result {
    let opened = opened().await?;
    let mut sqlx = sqlx::PgConnection::connect(&opened.url).await?;
    let insert = "insert into orders (item) values ('soap')";

    let mut tx = sqlx.begin().await?;
    tx.execute(insert).await?;
    mail(1).push_in(&mut tx).await?;
    tx.rollback().await?;
    assert_eq!(opened.stored_jobs().await?, 0);

    let mut tx = sqlx.begin().await?;
    tx.execute(insert).await?;
    let unique = mail(2).unique("order-2").push_in(&mut tx).await?;
    let again = mail(2).unique("order-2").push_in(&mut tx).await?;
    assert_eq!(unique.id(), again.id());
    // As a bare connection within a transaction, too.
    mail(3).push_in(&mut *tx).await?;
    tx.commit().await?;
    assert_eq!(opened.stored_jobs().await?, 2);
    let info = opened.broker.job(unique.id()).await?.unwrap();
    assert_eq!((info.state, info.queue.as_str()), (JobState::Ready, "mail"));
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_job_leaves_the_transaction_as_it_was() -> Result {
    let mut opened = opened().await?;
    let mut tx = opened.client.transaction().await?;
    let error = Job::new("mail", None, "no JSON").push_in(&mut tx).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Decode);
    mail(1).push_in(&mut tx).await?;
    tx.commit().await?;
    assert_eq!(opened.stored_jobs().await?, 1);

    let bare = Postgres::shared()?.fresh_database()?;
    let (mut client, connection) = tokio_postgres::connect(&bare, NoTls).await?;
    tokio::spawn(connection);
    let mut tx = client.transaction().await?;
    let error = mail(1).push_in(&mut tx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    Ok(())
}

/// Values that cannot be stored, and the kind of the error.
fn refused_jobs() -> Vec<(Job, ErrorKind)> {
    let bytes = 17 << 20;
    let large = Job::new("mail", None, format!("\"{}\"", "x".repeat(bytes)));
    vec![
        (Job::new("mail", None, "no JSON"), ErrorKind::Decode),
        (large, ErrorKind::TooLarge),
        (Job::new("ma\0il", None, "1"), ErrorKind::BadOption),
        (mail(1).key("a\0b"), ErrorKind::BadOption),
        (mail(1).unique("a\0b"), ErrorKind::BadOption),
        (mail(1).partition("a\0b"), ErrorKind::BadOption),
    ]
}

#[tokio::test]
async fn values_that_cannot_be_stored_are_refused_and_the_transaction_goes_on() -> Result {
    let mut opened = opened().await?;
    let mut sqlx = sqlx::PgConnection::connect(&opened.url).await?;
    let mut tx = opened.client.transaction().await?;
    let mut sqlx_tx = sqlx.begin().await?;
    for (job, kind) in refused_jobs() {
        for error in [
            job.clone().push_in(&mut tx).await.unwrap_err(),
            job.push_in(&mut sqlx_tx).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(!error.is_uncertain(), "{error:?}");
        }
    }
    // JSON may have this character, and PostgreSQL's text may not; as JSON it is text.
    Job::new("mail", None, "\"\\u0000\"")
        .label("a\0b")
        .push_in(&mut tx)
        .await?;
    mail(2).push_in(&mut sqlx_tx).await?;
    tx.commit().await?;
    sqlx_tx.commit().await?;
    let queue = opened.broker.queue("mail");
    let job = queue.take(Duration::ZERO).await?.unwrap();
    assert_eq!(job.payload::<String>()?, "\0");
    assert!(queue.take(Duration::ZERO).await?.is_some());
    assert_eq!(opened.stored_jobs().await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_the_database_refuses_ends_the_transaction_and_the_error_says_so() -> Result {
    let mut opened = opened().await?;
    opened
        .client
        .batch_execute("revoke all on function brigade.push_jobs from public; create role app")
        .await?;
    let mut tx = opened.client.transaction().await?;
    tx.batch_execute("set local role app").await?;
    let error = mail(1).push_in(&mut tx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    // The server has aborted the transaction, as after any error of a statement.
    let error = mail(2).push_in(&mut tx).await.unwrap_err();
    assert!(error.to_string().contains("roll it back"), "{error:?}");
    assert!(!error.is_uncertain());
    tx.rollback().await?;
    // With a savepoint around the push it is the push alone.
    let mut tx = opened.client.transaction().await?;
    tx.batch_execute("savepoint push; set local role app")
        .await?;
    assert!(mail(3).push_in(&mut tx).await.is_err());
    tx.batch_execute("rollback to push").await?;
    mail(4).push_in(&mut tx).await?;
    tx.commit().await?;
    assert_eq!(opened.stored_jobs().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_jobs_are_one_call() -> Result {
    let mut opened = opened().await?;
    let mut tx = opened.client.transaction().await?;
    let pushed = push_all_in(&mut tx, (0..100_000).map(mail)).await?;
    tx.commit().await?;
    assert_eq!(pushed.len(), 100_000);
    assert_eq!(opened.stored_jobs().await?, 100_000);
    // In this order.
    let queue = opened.broker.queue("mail");
    for order in 0..3 {
        let job = queue.take(Duration::ZERO).await?.unwrap();
        assert_eq!(job.payload::<Value>()?, json!({ "order": order }));
    }
    Ok(())
}

#[tokio::test]
async fn any_client_pushes_by_sql_and_from_a_trigger() -> Result {
    let opened = opened().await?;
    let sql = r#"select brigade.push('mail', '{"to": "ada"}', '{"task": "welcome", "priority": 7, "retries": 3,
        "backoff": {"base": 1, "cap": "5 minutes"}, "within": "2 hours", "timeout": 1.5, "memory": 1048576,
        "key": "ada", "partition": "eu", "unique": "ada-1", "unique_for": "1 day", "keep": 60,
        "label": "hello", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}')"#;
    let id = opened.count(sql).await?;
    let info = opened
        .broker
        .job(&brigade::JobId::new(id.to_string()))
        .await?
        .unwrap();
    let options = &info.options;
    assert_eq!((info.task.as_deref(), info.priority), (Some("welcome"), 7));
    assert_eq!(
        (options.retries, options.timeout),
        (Some(3), Some(Duration::from_millis(1500)))
    );
    let retry = options.retry.unwrap();
    assert_eq!(
        (retry.base, retry.cap),
        (Duration::from_secs(1), Duration::from_secs(300))
    );
    assert_eq!(retry.within, Some(Duration::from_secs(7200)));
    assert_eq!(
        (options.memory, options.label.as_deref()),
        (Some(1 << 20), Some("hello"))
    );
    assert_eq!(
        (options.keep, options.unique_for),
        (
            Some(Duration::from_secs(60)),
            Some(Duration::from_secs(86_400))
        )
    );
    assert!(options.traceparent.is_some());
    // Its unique key is held.
    let again = r#"select brigade.push('mail', '{}', '{"unique": "ada-1"}')"#;
    assert_eq!(opened.count(again).await?, id);

    let trigger = "
        create function order_placed() returns trigger language plpgsql as $$
        begin
          perform brigade.push('orders', jsonb_build_object('order', new.id), '{\"delay\": 3600}');
          return null;
        end $$;
        create trigger order_placed after insert on orders for each row execute function order_placed();
        insert into orders (item) values ('soap'), ('sponge')";
    opened.client.batch_execute(trigger).await?;
    let due = "select count(*) from brigade.jobs where queue = 'orders' and state = 1 and at > now() + interval '59 minutes'";
    assert_eq!(opened.count(due).await?, 2);
    Ok(())
}

#[tokio::test]
async fn sql_that_makes_no_sense_is_refused_with_what_to_do() -> Result {
    let opened = opened().await?;
    for (call, state, text) in [
        ("'', '1'", "22023", "a queue has 1 to"),
        ("null, '1'", "22023", "a queue has 1 to"),
        ("E'a\\nb', '1'", "22023", "no control characters"),
        ("'q', null", "22004", "the payload is null"),
        ("'q', '1', '[]'", "22023", "a JSON object"),
        (
            "'q', '1', '{\"dleay\": 1}'",
            "22023",
            "there is no option dleay",
        ),
        (
            "'q', '1', '{\"delay\": -1}'",
            "22023",
            "delay is a number of seconds",
        ),
        (
            "'q', '1', '{\"delay\": \"soon\"}'",
            "22023",
            "delay is a number of seconds",
        ),
        (
            "'q', '1', '{\"unique_for\": 1}'",
            "22023",
            "unique_for needs unique",
        ),
        ("'q', '\"\\u0000\"'", "22P05", "unsupported Unicode"),
        (
            "'q', to_jsonb(repeat('x', 17000000))",
            "54000",
            "16777216 are allowed",
        ),
    ] {
        let (found, message) = opened
            .refused(&format!("select brigade.push({call})"))
            .await;
        assert_eq!(found, state, "{call}: {message}");
        assert!(message.contains(text), "{call}: {message}");
    }
    assert_eq!(opened.stored_jobs().await?, 0);
    // A payload that is JSON and no jsonb is stored as it is by a push of the library.
    let nul = Job::new("q", None, "\"\\u0000\"");
    opened.broker.push(nul).await?;
    let job = opened
        .broker
        .queue("q")
        .take(Duration::ZERO)
        .await?
        .unwrap();
    assert_eq!(job.payload::<String>()?, "\0");
    Ok(())
}

/// Pushes on a connection of sqlx that waits for a unique key, and whose session is ended there.
async fn pushed_while_the_session_ends(begins: bool) -> Result<brigade::Error> {
    let mut opened = opened().await?;
    let mut other = sqlx::PgConnection::connect(&opened.url).await?;
    let mut open = opened.client.transaction().await?;
    mail(1).unique("order-1").push_in(&mut open).await?;
    let waiting = tokio::spawn(async move {
        if begins {
            let mut transaction = other.begin().await.unwrap();
            let pushed = mail(2).unique("order-1").push_in(&mut transaction).await;
            return pushed.map(drop);
        }
        let pushed = mail(2).unique("order-1").push_in(&mut other).await;
        pushed.map(drop)
    });
    let ends = "select pg_terminate_backend(pid) from pg_locks where not granted and \
        pg_backend_pid() = any(pg_blocking_pids(pid))";
    while open.query(ends, &[]).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(waiting.await?.unwrap_err())
}

#[tokio::test]
async fn a_lost_connection_leaves_a_push_uncertain_only_without_a_transaction() -> Result {
    let error = pushed_while_the_session_ends(false).await?;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.is_uncertain(), "{error:?}");
    let error = pushed_while_the_session_ends(true).await?;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(!error.is_uncertain(), "{error:?}");
    Ok(())
}
