//! What applications call in the database refuses what no consumer and no chore can work with.

use brigade::postgres::push_all_in;

use crate::stage::{fresh_broker, run, session};

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
