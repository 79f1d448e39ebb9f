//! Schedules that cannot be fired, and scripts that meet a key of another program: nothing is half
//! done, and nothing else stops.

use std::time::Duration;

use brigade::{JobState, Schedule, Settled};

use crate::stage::{LONG, NOW, all_jobs, plain, start, tell};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_schedule_whose_queue_holds_a_foreign_key_stops_no_hand_out() {
    let (server, broker) = start(&[]).await;
    broker.queue("healthy").push(&1).await.unwrap();
    broker
        .schedule(Schedule::every("broken", HOUR, broker.queue("torn").job(&2).unwrap()).unwrap())
        .await
        .unwrap();
    broker
        .schedule(Schedule::every("fine", HOUR, broker.queue("fine").job(&3).unwrap()).unwrap())
        .await
        .unwrap();
    for key in ["seq", "jobs", "ready"] {
        tell::<()>(
            &mut plain(&server),
            &[
                "SET",
                &format!("brigade:{{torn}}:{key}"),
                "of another program",
            ],
        );
    }
    broker.clock().advance(HOUR + Duration::from_secs(1));
    assert_eq!(
        broker
            .queue("healthy")
            .take(NOW)
            .await
            .unwrap()
            .unwrap()
            .json(),
        "1"
    );
    assert_eq!(
        broker
            .queue("fine")
            .take(NOW)
            .await
            .unwrap()
            .unwrap()
            .json(),
        "3",
        "the other schedule is fired"
    );
    for key in ["seq", "jobs", "ready"] {
        tell::<()>(
            &mut plain(&server),
            &["DEL", &format!("brigade:{{torn}}:{key}")],
        );
    }
    // The tick was not moved on without its job: another process fires it as soon as it can be.
    let other = brigade::Broker::connect(&server.url()).await.unwrap();
    other.clock().advance(HOUR + Duration::from_secs(1));
    assert_eq!(
        other.queue("torn").take(NOW).await.unwrap().unwrap().json(),
        "2"
    );
}

#[tokio::test]
async fn a_full_server_can_be_drained_while_schedules_are_due() {
    let (server, broker) = start(&["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]).await;
    for number in 0..10 {
        broker.queue("q").push(&number).await.unwrap();
    }
    broker
        .schedule(Schedule::every("s", HOUR, broker.queue("other").job(&1).unwrap()).unwrap())
        .await
        .unwrap();
    broker.clock().advance(HOUR + Duration::from_secs(1));
    server.ask("CONFIG SET maxmemory 1mb").unwrap();
    for _ in 0..10 {
        let lease = broker
            .queue("q")
            .lease(LONG, NOW)
            .await
            .unwrap()
            .expect("a full server hands out");
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    server.ask("CONFIG SET maxmemory 64mb").unwrap();
    let late = broker
        .queue("other")
        .take(Duration::from_secs(20))
        .await
        .unwrap();
    assert_eq!(late.expect("the tick is not lost").json(), "1");
}

/// Whatever the key: either all of a transition is done, or nothing.
#[tokio::test]
async fn a_foreign_key_of_a_job_leaves_no_transition_half_done() {
    for (key, kind) in [
        ("history:#", "string"),
        ("key:a", "string"),
        ("retrying", "string"),
        ("dead", "list"),
        ("out", "set"),
        ("jobs", "hash"),
    ] {
        let (server, broker) = start(&[]).await;
        let queue = broker.queue("q");
        let id = broker
            .push(queue.job(&1).unwrap().key("a").unique("m").retries(3))
            .await
            .unwrap()
            .id()
            .clone();
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        let number = format!("{:0>16}", id.as_str().rsplit_once('/').unwrap().1);
        let (key, aside) = (
            format!("brigade:{{q}}:{}", key.replace('#', &number)),
            "{q}:aside",
        );
        let mut connection = plain(&server);
        let was_there = tell::<u64>(&mut connection, &["EXISTS", &key]) == 1;
        if was_there {
            tell::<()>(&mut connection, &["RENAME", &key, aside]);
        }
        match kind {
            "string" => tell::<()>(&mut connection, &["SET", &key, "foreign"]),
            "list" => tell::<()>(&mut connection, &["RPUSH", &key, "foreign"]),
            "set" => tell::<()>(&mut connection, &["SADD", &key, "foreign"]),
            _ => tell::<()>(&mut connection, &["HSET", &key, "foreign", "1"]),
        }
        let dump = |connection: &mut redis::Connection| -> Vec<(String, Vec<u8>)> {
            let mut keys: Vec<String> = tell(connection, &["KEYS", "brigade:{q}:*"]);
            keys.sort();
            keys.into_iter()
                .map(|key| (key.clone(), tell(connection, &["DUMP", &key])))
                .collect()
        };
        let before = dump(&mut connection);
        let error = lease.clone().nack("not now").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("a key of another program is in the way"),
            "{key}: {error}"
        );
        assert_eq!(
            dump(&mut connection),
            before,
            "{key}: nothing of it was done"
        );
        tell::<()>(&mut connection, &["DEL", &key]);
        if was_there {
            tell::<()>(&mut connection, &["RENAME", aside, &key]);
        }
        assert_eq!(
            lease.nack("again").await.unwrap(),
            Settled::Accepted(None),
            "{key}"
        );
        assert_eq!(all_jobs(&broker, "q").await[0].state, JobState::Retrying);
    }
}

/// What was handed out before a later queue failed is in the caller's hands.
#[tokio::test]
async fn a_lease_over_several_queues_keeps_what_it_took_when_a_later_one_fails() {
    let (server, broker) = start(&[]).await;
    broker.queue("a").push(&1).await.unwrap();
    tell::<()>(
        &mut plain(&server),
        &["SET", "brigade:{b}:ready", "of another program"],
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = broker.consumer().queue("a").queue("b").prefetch(10);
    let serving = tokio::spawn(
        worker
            .in_process()
            .run_until(stop.clone().cancelled_owned()),
    );
    crate::stage::until("the job was handed out to one who has it", async || {
        // What is no task goes to its end, whichever that is; it must not stay leased without a
        // holder.
        let jobs = all_jobs(&broker, "a").await;
        jobs.is_empty()
            || jobs
                .iter()
                .all(|job| job.state != JobState::Leased && !job.history.is_empty())
    })
    .await;
    stop.cancel();
    serving.await.unwrap().ok();
}
