//! Chores that cannot be done, or not now: they stop nothing else.

use std::time::Duration;

use brigade::{CancelOutcome, JobId, Settled};

use crate::stage::{BOUND, fresh_broker, run, session};

const BREAK: &str = "create function public.fail() returns trigger language plpgsql as \
        $$ begin raise 'broken'; end $$; \
    create trigger broken before update on brigade.jobs for each row when (old.state = 1) \
        execute function public.fail()";

#[test]
fn a_chore_that_fails_stops_no_hand_out_and_no_look() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let administrator = session(&url).await;
        administrator.batch_execute(BREAK).await.unwrap();
        let queue = broker.queue("q");
        let push = r#"select brigade.push('q', '1', '{"delay": 0.001}')"#;
        let late = administrator.query_one(push, &[]).await.unwrap();
        let late = JobId::new(late.get::<_, i64>(0).to_string());
        queue.push(&2).await.unwrap();
        let third = queue.push(&3).await.unwrap();
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(lease.json(), "2");
        lease.ack().await.unwrap();
        assert_eq!(broker.queues().await.unwrap().len(), 1);
        assert!(broker.job(&late).await.unwrap().is_some());
        let cancelled = broker.cancel(&third, "not wanted").await.unwrap();
        assert_eq!(cancelled, CancelOutcome::Cancelled);

        let mend = "drop trigger broken on brigade.jobs";
        administrator.batch_execute(mend).await.unwrap();
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(*lease.id(), late);
    });
}

#[test]
fn a_key_that_another_transaction_has_locked_holds_up_no_other_chore() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let (mut other, application) = (session(&url).await, session(&url).await);
        let transaction = other.transaction().await.unwrap();
        let lock = "select pg_advisory_xact_lock(brigade.lock_of_key('q', 'K'))";
        transaction.execute(lock, &[]).await.unwrap();
        for key in ["K", "L"] {
            let push = "select brigade.push('q', to_jsonb($1::text), \
                jsonb_build_object('key', $1::text, 'delay', 0.001))";
            application.execute(push, &[&key]).await.unwrap();
        }
        let queue = broker.queue("q");
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(lease.json(), "\"L\"");
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        transaction.rollback().await.unwrap();
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(lease.json(), "\"K\"");
    });
}

#[test]
fn unique_keys_of_live_jobs_keep_no_others_from_being_removed() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let application = session(&url).await;
        let push = async |unique: &str, seconds: i32| {
            let push = "select brigade.push('q', '1', \
                jsonb_build_object('unique', $1::text, 'unique_for', $2::integer))";
            application
                .execute(push, &[&unique, &seconds])
                .await
                .unwrap();
        };
        push("ended", 1800).await;
        let queue = broker.queue("q");
        let lease = queue.lease(BOUND, Duration::ZERO).await.unwrap().unwrap();
        lease.ack().await.unwrap();
        for unique in ["A", "B", "C"] {
            push(unique, 60).await;
        }
        // An hour later, two of a kind at a time.
        let later = "set brigade.wall = '3600000'";
        application.batch_execute(later).await.unwrap();
        for _ in 0..3 {
            let chores = "select brigade.chores(2, null, null)::text";
            application.query_one(chores, &[]).await.unwrap();
        }
        let kept = "select string_agg(unique_key, '' order by unique_key) from brigade.unique_keys";
        let kept: String = application.query_one(kept, &[]).await.unwrap().get(0);
        assert_eq!(kept, "ABC");
        assert!(push_is_duplicate(&application).await);
    });
}

/// Whether another push with a key of a live job is one, also behind its time.
async fn push_is_duplicate(application: &tokio_postgres::Client) -> bool {
    let push = "select id, is_new from brigade.push_jobs($1)";
    let job = r#"[{"queue": "q", "payload": "1", "unique_key": "A"}]"#;
    let row = application.query_one(push, &[&job]).await.unwrap();
    !row.get::<_, bool>(1)
}
