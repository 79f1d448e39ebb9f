//! `?wait=N`: what counts only once replicas have it.

use brigade::{Broker, ErrorKind, Settled};
use brigade_testkit::places::Replicated;
use rustix::process::Signal;

use super::{LONG, NOW, run, works};

#[test]
fn a_push_that_too_few_replicas_have_is_uncertain() {
    run(async {
        let mut place = Replicated::start(1, &[]).unwrap();
        let url = format!("redis://127.0.0.1:{}?wait=1&wait_timeout=200ms", place.port);
        works(&url).await;
        let broker = Broker::connect(&url).await.unwrap();
        let queue = broker.queue("emails");
        queue.push(&1).await.unwrap();

        place.servers[1].signal(Signal::STOP);
        let error = queue.push(&2).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Unreachable && error.is_uncertain(),
            "{error:?}"
        );
        assert!(
            error.to_string().contains("only 0 of 1 replicas"),
            "{error}"
        );
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        let id = lease.id().clone();
        let error = lease.ack().await.unwrap_err();
        assert!(error.is_uncertain(), "{error:?}");
        // The primary has both: the settlement held, and the second job is there.
        assert!(broker.job(&id).await.unwrap().is_none());
        let second = queue.lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(second.payload::<u32>().unwrap(), 2);

        place.servers[1].signal(Signal::CONT);
        assert_eq!(second.ack().await.unwrap(), Settled::Accepted(None));
        place.servers.truncate(1);
        assert!(queue.push(&3).await.unwrap_err().is_uncertain());
    });
}

/// A replica that is away ends no long attempt: its lease can be extended.
#[test]
fn an_extension_of_a_lease_waits_for_no_replica() {
    run(async {
        let place = Replicated::start(1, &[]).unwrap();
        let broker = Broker::connect(&format!(
            "redis://127.0.0.1:{}?wait=1&wait_timeout=200ms",
            place.port
        ))
        .await
        .unwrap();
        broker.queue("emails").push(&1).await.unwrap();
        let lease = broker
            .queue("emails")
            .lease(LONG, NOW)
            .await
            .unwrap()
            .unwrap();
        place.servers[1].signal(Signal::STOP);
        assert_eq!(lease.extend(LONG).await.unwrap(), Settled::Accepted(None));
        assert!(
            lease.ack().await.unwrap_err().is_uncertain(),
            "what ends it waits as before"
        );
        place.servers[1].signal(Signal::CONT);
    });
}
