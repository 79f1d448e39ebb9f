//! Chores that cannot be done: they stop nothing else.

use brigade::{CancelOutcome, JobId};

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
