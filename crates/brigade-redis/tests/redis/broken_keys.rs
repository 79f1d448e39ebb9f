//! Scripts that the server forgot, keys that were removed or that another
//! program uses, and a server that a script of another program blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brigade::{Broker, ErrorKind, JobState, Limits, PushOutcome, Settled, task};
use brigade_testkit::redis::Redis;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::stage::{BOUND, LONG, NOW, all_jobs, millis, plain, start, tell, unsettled, until};

#[task(queue = "served")]
fn doubled(number: i64) -> i64 {
    2 * number
}

/// Closed until all jobs are in hand.
static GATE: Semaphore = Semaphore::const_new(0);

#[task(queue = "fine")]
async fn waits_in_fine(_number: u32) {
    GATE.acquire().await.unwrap().forget();
}

#[task(queue = "torn")]
async fn waits_in_torn(_number: u32) {
    GATE.acquire().await.unwrap().forget();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_scripts_that_the_server_forgets_are_loaded_again() {
    let (server, broker) = start(&[]).await;
    let (stop, mut connection) = (Arc::new(AtomicBool::new(false)), plain(&server));
    let flushing = tokio::task::spawn_blocking({
        let stop = Arc::clone(&stop);
        move || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                tell::<()>(&mut connection, &["SCRIPT", "FLUSH"]);
                count += 1;
                std::thread::sleep(millis(1));
            }
            count
        }
    });
    for number in 0..brigade_testkit::count(100, 2000) {
        broker.queue("q").push(&number).await.unwrap();
        let lease = broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(lease.payload::<usize>().unwrap(), number);
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    stop.store(true, Ordering::Relaxed);
    println!("forgotten {} times", flushing.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_after_everything_was_removed_old_leases_are_stale_and_consumption_goes_on() {
    let (server, broker) = start(&[]).await;
    let queue = broker.queue("q");
    queue.push(&1).await.unwrap();
    let old = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.lease(LONG, LONG).await.unwrap().unwrap() }
    });
    tell::<()>(&mut plain(&server), &["FLUSHALL"]);
    let id = queue.push(&2).await.unwrap();
    let new = timeout(BOUND, waiting).await.unwrap().unwrap();
    assert_eq!((new.json(), new.id()), ("2", &id));
    assert_ne!(new.id(), old.id(), "no id comes again");
    assert_eq!(old.clone().pass("too late").await.unwrap(), Settled::Stale);
    assert_eq!(old.ack().await.unwrap(), Settled::Stale);
    let other = Broker::connect(&server.url()).await.unwrap();
    assert_eq!(
        other.queues().await.unwrap()[0].jobs,
        [(JobState::Leased, 1)],
        "it is on the list of queues again"
    );
    assert_eq!(new.ack().await.unwrap(), Settled::Accepted(None));
}

/// Keys of a queue that another program may hold with something else.
const TAKEN: [&str; 10] = [
    "ready",
    "leased",
    "scheduled",
    "retrying",
    "done",
    "inbox",
    "limits",
    "jobs",
    "seq",
    "consumers",
];

/// Asserts that calls say which key is in the way.
async fn calls_name_the_key(broker: &Broker, name: &str) {
    let queue = broker.queue("served");
    let answer = async {
        (
            queue.push(&1).await.err(),
            queue.lease(LONG, NOW).await.err(),
            broker.queues().await.err(),
        )
    };
    let (push, lease, count) = timeout(BOUND, answer).await.unwrap();
    let errors: Vec<_> = [push, lease, count].into_iter().flatten().collect();
    assert!(!errors.is_empty(), "{name}: no call noticed");
    for error in errors {
        assert!(
            error.kind() == ErrorKind::Unsupported
                && !error.is_retryable()
                && !error.is_uncertain(),
            "{name}: {error:?}"
        );
        assert!(
            error
                .to_string()
                .contains("a key of another program is in the way"),
            "{name}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_a_key_of_another_type_is_named_and_once_it_is_gone_all_goes_on() {
    let (server, broker) = start(&[]).await;
    let mut connection = plain(&server);
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(
        broker
            .consumer()
            .queue("served")
            .in_process()
            .run_until(stop.clone().cancelled_owned()),
    );
    for name in TAKEN {
        let key = format!("brigade:{{served}}:{name}");
        if name == "ready" || name == "jobs" || name == "leased" {
            tell::<()>(&mut connection, &["SET", &key, "of another program"]);
        } else {
            // At once, or the worker is there first with a key of its own.
            let script = "redis.call('DEL', KEYS[1]) redis.call('XADD', KEYS[1], '*', 'of', \
                'another program')";
            tell::<()>(&mut connection, &["EVAL", script, "1", &key]);
        }
        calls_name_the_key(&broker, name).await;
        tell::<()>(&mut connection, &["FLUSHALL"]);
        let job = broker.queue("served").job(&21).unwrap().keep(LONG);
        let id = broker.push(job).await.unwrap().id().clone();
        let done = timeout(BOUND, broker.wait(&id))
            .await
            .expect("the worker goes on by itself")
            .unwrap()
            .unwrap();
        assert_eq!(done.result.as_deref(), Some("42"), "{name}");
    }
    tell::<()>(&mut connection, &["FLUSHALL"]);
    tell::<()>(
        &mut connection,
        &["SET", "brigade:queues", "of another program"],
    );
    let error = broker.queue("another").push(&1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    stop.cancel();
    timeout(BOUND, serving).await.unwrap().unwrap().unwrap();
}

/// Attempts that end together are settled together, and those that came through are not sent again:
/// they would be taken for too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_a_queue_that_cannot_be_settled_makes_no_other_stale() {
    const EACH: u32 = 20;
    let (server, broker) = start(&[]).await;
    for number in 0..EACH {
        broker.queue("fine").push(&number).await.unwrap();
        broker.queue("torn").push(&number).await.unwrap();
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = broker
        .consumer()
        .queue("fine")
        .queue("torn")
        .in_process()
        .prefetch(2 * EACH as usize);
    let serving = tokio::spawn(worker.run_until(stop.clone().cancelled_owned()));
    let leased = async || -> u64 {
        let counts = broker.queues().await.unwrap();
        counts
            .iter()
            .flat_map(|queue| &queue.jobs)
            .filter(|(state, _)| *state == JobState::Leased)
            .map(|(_, count)| count)
            .sum()
    };
    until("all are in hand", async || {
        leased().await == u64::from(2 * EACH)
    })
    .await;

    let mut connection = plain(&server);
    let (key, aside) = ("brigade:{torn}:leased", "{torn}:aside");
    tell::<()>(&mut connection, &["RENAME", key, aside]);
    tell::<()>(&mut connection, &["SET", key, "of another program"]);
    GATE.add_permits(2 * EACH as usize);
    until("the one that can be is settled", async || {
        tell::<u64>(&mut plain(&server), &["ZCARD", "brigade:{fine}:leased"]) == 0
    })
    .await;
    tell::<()>(&mut connection, &["RENAME", aside, key]);
    until("the other is settled too", async || leased().await == 0).await;
    stop.cancel();
    let served = timeout(BOUND, serving).await.unwrap().unwrap().unwrap();
    assert_eq!(
        (served.done, served.stale),
        (u64::from(2 * EACH), 0),
        "{served:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_a_key_of_another_type_refuses_the_push_that_needs_it_and_none_beside_it() {
    let (server, broker) = start(&[]).await;
    tell::<()>(
        &mut plain(&server),
        &[
            "XADD",
            "brigade:{q}:unique_key:broken",
            "*",
            "of",
            "another program",
        ],
    );
    let push = |number: u32| {
        let job = broker.queue("q").job(&number).unwrap();
        let job = if number.is_multiple_of(4) {
            job.unique("broken")
        } else {
            job
        };
        broker.push(job)
    };
    for (number, answer) in
        (0..100_u32).zip(futures_util::future::join_all((0..100).map(push)).await)
    {
        match answer {
            Ok(pushed) => assert!(!number.is_multiple_of(4), "{pushed:?}"),
            Err(error) => {
                assert!(
                    number.is_multiple_of(4)
                        && error.kind() == ErrorKind::Unsupported
                        && !error.is_uncertain(),
                    "{number}: {error:?}"
                );
            }
        }
    }
    assert_eq!(all_jobs(&broker, "q").await.len(), 75);
}

/// A job whose hash is gone: a program deleted it, or the server removed it because its memory was
/// full.
#[tokio::test]
async fn e35_a_job_that_somebody_removed_keeps_no_other_from_being_handed_out() {
    let limits = [
        None,
        Some(Limits::new().running_per_partition(1)),
        Some(Limits::new().turns()),
    ];
    for (state, limits) in ["ready", "scheduled", "leased", "blocked", "done"]
        .into_iter()
        .flat_map(|state| limits.map(|of| (state, of)))
    {
        let (server, broker) = start(&[]).await;
        let queue = broker.queue("q");
        if let Some(limits) = limits {
            queue.limit(limits).await.unwrap();
        }
        let job = queue.job(&"removed").unwrap().key("a").unique("m");
        let job = match state {
            "scheduled" => job.delay(millis(1)),
            "blocked" => {
                broker
                    .push(queue.job(&"holds").unwrap().key("a"))
                    .await
                    .unwrap();
                job
            }
            "done" => job.keep(millis(1)),
            _ => job,
        };
        let id = broker.push(job).await.unwrap().id().clone();
        if state == "leased" || state == "done" {
            let lease = queue.lease(millis(1), NOW).await.unwrap().unwrap();
            if state == "done" {
                lease.ack().await.unwrap();
            }
        }
        let number = id.as_str().rsplit_once('/').unwrap().1;
        assert_eq!(
            tell::<u64>(
                &mut plain(&server),
                &["DEL", &format!("brigade:{{q}}:job:{number:0>16}")]
            ),
            1
        );
        broker.clock().advance(millis(1000));
        let next = broker
            .push(queue.job(&"next").unwrap().key("a").unique("m"))
            .await
            .unwrap();
        assert!(
            matches!(next, PushOutcome::New(_)),
            "{state}: its unique key stands for nothing"
        );
        broker.push(queue.job(&"other").unwrap()).await.unwrap();
        let mut handed = Vec::new();
        while let Some(lease) = queue.lease(LONG, NOW).await.unwrap() {
            handed.push(lease.payload::<String>().unwrap());
            assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        }
        handed.retain(|of| of != "holds");
        handed.sort();
        assert_eq!(handed, ["next", "other"], "{state}");
        assert!(broker.job(&id).await.unwrap().is_none());
        queue.unlimit().await.unwrap();
        assert_eq!(
            broker.queues().await.unwrap(),
            [],
            "{state}: nothing of it is left"
        );
    }
}

/// Holds the server up with a script until it is killed, on a connection of its own.
fn hold_up(server: &Redis) -> tokio::task::JoinHandle<()> {
    let mut connection = plain(server);
    tokio::task::spawn_blocking(move || {
        redis::cmd("EVAL")
            .arg("while true do end")
            .arg(0)
            .query::<()>(&mut connection)
            .unwrap_err();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_a_server_held_up_by_a_script_is_named_and_all_goes_on_when_that_is_killed() {
    let server = Redis::start(&["--lua-time-limit", "20"]).unwrap();
    // Another database than the first is chosen on each new connection.
    let broker = Broker::connect(&format!("{}?db=3", server.url()))
        .await
        .unwrap();
    let queue = broker.queue("q");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move {
            loop {
                match queue.lease(LONG, LONG).await {
                    Ok(lease) => return lease.unwrap(),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}"),
                }
                tokio::time::sleep(millis(20)).await;
            }
        }
    });
    let holding = hold_up(&server);
    until("it says that it is busy", async || {
        server.ask("PING").unwrap().starts_with("-BUSY")
    })
    .await;
    let error = queue.push(&1).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unreachable && error.is_retryable() && !error.is_uncertain(),
        "{error:?}"
    );
    assert!(error.to_string().contains("SCRIPT KILL"), "{error}");
    assert_eq!(server.ask("SCRIPT KILL").unwrap(), "+OK\r\n");
    holding.await.unwrap();
    queue.push(&2).await.unwrap();
    assert_eq!(timeout(BOUND, waiting).await.unwrap().unwrap().json(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_who_connects_again_while_a_script_holds_the_server_up_is_served_afterwards() {
    let server = Redis::start(&["--lua-time-limit", "20"]).unwrap();
    let broker = Broker::connect(&format!("{}?db=3", server.url()))
        .await
        .unwrap();
    broker.queue("q").push(&1).await.unwrap();
    server.ask("CLIENT KILL TYPE normal").unwrap();
    let holding = hold_up(&server);
    until("it says that it is busy", async || {
        server.ask("PING").unwrap().starts_with("-BUSY")
    })
    .await;
    // Whichever call notices that the connection is gone; the next ones find the server busy while
    // they connect.
    for number in 2..5 {
        let error = broker.queue("q").push(&number).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    }
    assert_eq!(server.ask("SCRIPT KILL").unwrap(), "+OK\r\n");
    holding.await.unwrap();
    until("it is reached again", async || {
        broker.queue("q").push(&9).await.is_ok()
    })
    .await;
    assert_eq!(unsettled(&broker, &["q"]).await, 2);
    assert_eq!(all_jobs(&broker, "q").await.len(), 2);
}
