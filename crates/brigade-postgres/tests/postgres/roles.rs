//! Roles with least rights: each may do what docs/brokers.md grants it for, and nothing else. The
//! grants are taken from that page.

use brigade::{Broker, ErrorKind, Settled};
use brigade_testkit::postgres::Postgres;

use super::stage::{BOUND, run};

const PAGE: &str = include_str!("../../../../docs/brokers.md");
const DATABASE: &str = "postgres";

struct Roles {
    server: Postgres,
}

impl Roles {
    /// A schema that its superuser made, and the roles of the page.
    async fn start() -> Self {
        let server = Postgres::start(&[]).unwrap();
        Broker::connect(&server.url()).await.unwrap();
        for role in ["consumer", "pusher", "reader"] {
            server.sql(&format!("create role {role} login")).unwrap();
        }
        let section = PAGE.split_once("\n## PostgreSQL\n").unwrap().1;
        let grants = section.split_once("```sql\n-- consumer").unwrap().1;
        server
            .sql(&format!("-- {}", grants.split_once("```").unwrap().0))
            .unwrap();
        Self { server }
    }

    async fn broker(&self, role: &str) -> Broker {
        let url = self.server.url_of(role, DATABASE);
        Broker::connect(&url).await.unwrap()
    }

    /// What the server says to a statement of this role.
    fn refusal(&self, role: &str, sql: &str) -> String {
        let error = self.server.sql_in(role, DATABASE, sql).unwrap_err();
        error.to_string()
    }
}

fn kind<T>(result: Result<T, brigade::Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_consumer_does_all_that_jobs_need_and_changes_no_table() {
    run(async {
        let roles = Roles::start().await;
        let broker = roles.broker("consumer").await;
        let queue = broker.queue("mail");
        queue.push(&1).await.unwrap();
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        let id = queue.push(&2).await.unwrap();
        broker.cancel(&id, "not wanted").await.unwrap();
        queue.pause().await.unwrap();
        queue.resume().await.unwrap();
        assert_eq!(broker.queues().await.unwrap().len(), 1);
        let refusal = roles.refusal("consumer", "drop table brigade.jobs");
        assert!(refusal.contains("must be owner"), "{refusal}");
    });
}

#[test]
fn a_pusher_pushes_and_sees_no_job() {
    run(async {
        let roles = Roles::start().await;
        let broker = roles.broker("pusher").await;
        let queue = broker.queue("mail");
        let id = queue.push(&1).await.unwrap();
        let call = "select brigade.push('mail', '2')";
        roles.server.sql_in("pusher", DATABASE, call).unwrap();
        assert_eq!(kind(broker.job(&id).await), Some(ErrorKind::Refused));
        let leased = queue.lease(BOUND, BOUND).await;
        assert_eq!(kind(leased), Some(ErrorKind::Refused));
        let refusal = roles.refusal("pusher", "select * from brigade.jobs");
        assert!(refusal.contains("permission denied"), "{refusal}");
        let owner = Broker::connect(&roles.server.url()).await.unwrap();
        let jobs = owner.jobs(Some("mail"), None, None, 10).await.unwrap();
        assert_eq!(jobs.len(), 2);
    });
}

#[test]
fn a_reader_looks_and_changes_nothing() {
    run(async {
        let roles = Roles::start().await;
        let owner = Broker::connect(&roles.server.url()).await.unwrap();
        let id = owner.queue("mail").push(&1).await.unwrap();
        let broker = roles.broker("reader").await;
        assert_eq!(broker.job(&id).await.unwrap().unwrap().payload, "1");
        assert_eq!(broker.queues().await.unwrap().len(), 1);
        assert!(broker.why(&id).await.unwrap().is_some());
        let queue = broker.queue("mail");
        assert_eq!(kind(queue.push(&2).await), Some(ErrorKind::Refused));
        let cancelled = broker.cancel(&id, "not wanted").await;
        assert_eq!(kind(cancelled), Some(ErrorKind::Refused));
        let refusal = roles.refusal("reader", "select brigade.push('mail', '2')");
        assert!(refusal.contains("permission denied"), "{refusal}");
        let jobs = owner.jobs(Some("mail"), None, None, 10).await.unwrap();
        assert_eq!(jobs.len(), 1);
    });
}

#[test]
fn looks_of_a_reader_fill_no_log_with_refusals() {
    run(async {
        let roles = Roles::start().await;
        let broker = roles.broker("reader").await;
        for _ in 0..10 {
            broker.queues().await.unwrap();
        }
        let log = roles.server.log();
        let refusals = log.matches("permission denied").count();
        assert!(refusals <= 1, "{refusals}: {log}");
    });
}
