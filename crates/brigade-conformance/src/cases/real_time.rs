//! The life of a job as a consumer sees it, in real time: for stores that cannot list jobs and
//! whose clock tests cannot move, and for all others.
//!
//! Pauses are long enough to differ from none on a busy machine; nothing is asserted to be fast.
//! The last case asks for each thing that a store may lack: what is not declared is refused as
//! `Unsupported`, before anything is stored.

use std::time::{Duration, Instant, SystemTime};

use brigade::{Broker, Call, Error, ErrorKind, Lease, Limits, PushOutcome, Queue, Retry, Settled};
use serde_json::json;

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(what_is_given_back_comes_again_uncharged),
    case!(a_failure_is_tried_again_after_its_pause_until_its_attempts_are_used_up),
    case!(a_holder_chooses_the_pause_or_that_there_is_no_next_attempt),
    case!(what_has_a_delay_comes_no_earlier_and_holds_up_nobody: scheduling),
    case!(a_lease_that_runs_out_is_fenced_and_its_job_comes_again_uncharged),
    case!(an_extended_lease_holds_and_only_the_first_settlement_counts),
    case!(a_job_whose_time_to_begin_is_over_is_set_aside),
    case!(a_lease_has_the_options_of_its_job_each_time),
    case!(what_one_connection_pushes_another_takes_and_what_it_held_comes_again: durable),
    case!(what_is_not_declared_is_unsupported),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;
/// Long enough to differ from none on a busy machine.
const PAUSE: Duration = Duration::from_millis(300);

async fn lease(queue: &Queue) -> Lease {
    queue.lease(LONG, LONG).await.unwrap().expect("a job comes")
}

/// Takes the payloads of so many dead letters of a queue; there are no more.
async fn dead(broker: &Broker, queue: &str, count: usize) -> Vec<String> {
    if broker.capabilities().listing {
        let dead = broker
            .jobs(Some(queue), Some(brigade::JobState::Dead), None, 10)
            .await
            .unwrap();
        return dead.into_iter().map(|job| job.payload).collect();
    }
    assert!(broker.capabilities().dead_queues);
    let (queue, mut found) = (broker.queue(format!("{queue}.dead")), Vec::new());
    for _ in 0..count {
        found.push(
            queue
                .take(LONG)
                .await
                .unwrap()
                .expect("a dead letter")
                .json()
                .to_owned(),
        );
    }
    assert!(queue.take(NOW).await.unwrap().is_none());
    found.sort();
    found
}

async fn what_is_given_back_comes_again_uncharged(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    for n in 0..4 {
        let held = lease(&queue).await;
        assert_eq!((held.id(), held.attempt(), held.json()), (&id, 1, "1"));
        let given = if n % 2 == 0 {
            held.pass("reloading").await
        } else {
            held.give_back("a deploy").await
        };
        assert_eq!(given.unwrap(), Settled::Accepted(None));
    }
    let held = lease(&queue).await;
    let began = Instant::now();
    assert_eq!(
        held.pass_later("reloading", PAUSE).await.unwrap(),
        Settled::Accepted(None)
    );
    assert!(queue.take(NOW).await.unwrap().is_none());
    let held = lease(&queue).await;
    assert!(held.id() == &id && held.attempt() == 1 && began.elapsed() >= PAUSE);
    held.ack().await.unwrap();
    assert!(queue.take(NOW).await.unwrap().is_none());
}

async fn a_failure_is_tried_again_after_its_pause_until_its_attempts_are_used_up(subject: Subject) {
    let queue = subject.broker.queue("q");
    let retry = Retry::exponential(2 * PAUSE, 2 * PAUSE);
    let job = queue
        .job(&json!([1, "two"]))
        .unwrap()
        .retries(2)
        .retry(retry);
    let id = subject.broker.push(job).await.unwrap().id().clone();
    for attempt in 1..=3 {
        let held = lease(&queue).await;
        assert_eq!(
            (held.id(), held.attempt(), held.json()),
            (&id, attempt, r#"[1,"two"]"#)
        );
        let began = Instant::now();
        assert_eq!(
            held.nack(format!("no {attempt}")).await.unwrap(),
            Settled::Accepted(None)
        );
        if attempt < 3 {
            assert!(queue.take(NOW).await.unwrap().is_none());
            let held = lease(&queue).await;
            assert!(began.elapsed() >= PAUSE, "{:?}", began.elapsed());
            held.pass("not here").await.unwrap();
        }
    }
    assert!(queue.take(PAUSE).await.unwrap().is_none());
    assert_eq!(dead(&subject.broker, "q", 1).await, [r#"[1,"two"]"#]);
}

async fn a_holder_chooses_the_pause_or_that_there_is_no_next_attempt(subject: Subject) {
    let queue = subject.broker.queue("q");
    subject
        .broker
        .push(queue.job(&1).unwrap().retries(5))
        .await
        .unwrap();
    let began = Instant::now();
    lease(&queue).await.nack_later("busy", PAUSE).await.unwrap();
    let held = lease(&queue).await;
    assert!(held.attempt() == 2 && began.elapsed() >= PAUSE);
    held.dead_letter("odd").await.unwrap();
    assert!(queue.take(PAUSE).await.unwrap().is_none());
    assert_eq!(dead(&subject.broker, "q", 1).await, ["1"]);
}

async fn what_has_a_delay_comes_no_earlier_and_holds_up_nobody(subject: Subject) {
    let queue = subject.broker.queue("q");
    let (began, wall) = (Instant::now(), SystemTime::now());
    let jobs = vec![
        queue
            .job(&"in an hour")
            .unwrap()
            .delay(Duration::from_secs(3600)),
        queue.job(&"later").unwrap().delay(2 * PAUSE),
        queue.job(&"soon").unwrap().at(wall + PAUSE),
        queue.job(&"now").unwrap(),
    ];
    subject.broker.push_many(jobs).await.unwrap();
    // On a busy machine all may be due before the first is asked for, so their order says
    // nothing.
    let mut came = Vec::new();
    for _ in 0..3 {
        let job: String = queue.take(LONG).await.unwrap().unwrap().payload().unwrap();
        match job.as_str() {
            "soon" => assert!(wall.elapsed().unwrap() >= PAUSE, "{:?}", wall.elapsed()),
            "later" => assert!(began.elapsed() >= 2 * PAUSE, "{:?}", began.elapsed()),
            _ => {}
        }
        came.push(job);
    }
    came.sort();
    assert_eq!(came, ["later", "now", "soon"]);
    assert!(queue.take(NOW).await.unwrap().is_none());
}

async fn a_lease_that_runs_out_is_fenced_and_its_job_comes_again_uncharged(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let late = queue.lease(PAUSE, LONG).await.unwrap().unwrap();
    let again = lease(&queue).await;
    assert_eq!((again.id(), again.attempt()), (&id, 1));
    assert_eq!(late.extend(LONG).await.unwrap(), Settled::Stale);
    assert_eq!(late.ack().await.unwrap(), Settled::Stale);
    assert_eq!(again.ack().await.unwrap(), Settled::Accepted(None));
    assert!(queue.take(NOW).await.unwrap().is_none());
}

async fn an_extended_lease_holds_and_only_the_first_settlement_counts(subject: Subject) {
    let queue = subject.broker.queue("q");
    queue.push(&1).await.unwrap();
    let held = queue.lease(2 * PAUSE, LONG).await.unwrap().unwrap();
    for _ in 0..4 {
        tokio::time::sleep(PAUSE).await;
        assert_eq!(held.extend(LONG).await.unwrap(), Settled::Accepted(None));
    }
    assert!(queue.take(NOW).await.unwrap().is_none());
    assert_eq!(held.clone().ack().await.unwrap(), Settled::Accepted(None));
    assert_eq!(held.clone().nack("late").await.unwrap(), Settled::Stale);
    assert_eq!(held.extend(LONG).await.unwrap(), Settled::Stale);
    assert!(queue.take(PAUSE).await.unwrap().is_none());
}

async fn a_job_whose_time_to_begin_is_over_is_set_aside(subject: Subject) {
    let queue = subject.broker.queue("q");
    let within = |time| Retry::exponential(PAUSE, PAUSE).within(time);
    subject
        .broker
        .push(queue.job(&1).unwrap().retry(within(PAUSE)))
        .await
        .unwrap();
    tokio::time::sleep(PAUSE * 3 / 2).await;
    assert!(queue.take(PAUSE).await.unwrap().is_none());
    // One that failed, and whose next attempt would begin too late.
    subject
        .broker
        .push(queue.job(&2).unwrap().retries(9).retry(within(LONG)))
        .await
        .unwrap();
    lease(&queue)
        .await
        .nack_later("busy", 2 * LONG)
        .await
        .unwrap();
    assert!(queue.take(PAUSE).await.unwrap().is_none());
    assert_eq!(dead(&subject.broker, "q", 2).await, ["1", "2"]);
}

async fn a_lease_has_the_options_of_its_job_each_time(subject: Subject) {
    let queue = subject.broker.queue("q");
    let second = Duration::from_secs(1);
    let job = queue
        .job(&1)
        .unwrap()
        .task("t")
        .timeout(second)
        .memory(1 << 20)
        .label("a name")
        .retries(2);
    subject.broker.push(job).await.unwrap();
    for attempt in 1..=2 {
        let held = lease(&queue).await;
        assert_eq!(
            (held.queue(), held.task(), held.timeout(), held.memory()),
            ("q", Some("t"), Some(second), Some(1 << 20))
        );
        assert_eq!(
            (held.label(), held.retries(), held.attempt(), held.crashed()),
            (Some("a name"), 2, attempt, 0)
        );
        held.nack("no").await.unwrap();
    }
}

async fn what_one_connection_pushes_another_takes_and_what_it_held_comes_again(subject: Subject) {
    let other = subject.place.connect().await;
    let id = subject.broker.queue("q").push(&1).await.unwrap();
    let held = other
        .queue("q")
        .lease(2 * PAUSE, LONG)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(held.id(), &id);
    drop((held, other));
    let again = lease(&subject.broker.queue("q")).await;
    assert_eq!((again.id(), again.attempt()), (&id, 1));
    again.ack().await.unwrap();
}

#[track_caller]
fn is_refused<T>(answer: Result<T, Error>, can: bool, what: &str) {
    assert_eq!(
        answer
            .err()
            .is_some_and(|error| error.kind() == ErrorKind::Unsupported),
        !can,
        "{what}"
    );
}

/// What a broker says that it cannot do is a clear error, never something else.
async fn what_is_not_declared_is_unsupported(Subject { broker, .. }: Subject) {
    let (can, queue) = (broker.capabilities(), broker.queue("q"));
    let job = || queue.job(&json!([1])).unwrap();
    let id = broker.push(job()).await.unwrap().id().clone();
    is_refused(broker.job(&id).await, can.listing, "a look at a job");
    is_refused(
        broker.jobs(None, None, None, 1).await,
        can.listing,
        "a look at jobs",
    );
    is_refused(broker.queues().await, can.listing, "counts");
    is_refused(broker.why(&id).await, can.listing, "why");
    is_refused(broker.retry(&id).await, can.listing, "a retry");
    is_refused(broker.delete_dead(&id).await, can.listing, "a removal");
    is_refused(broker.cancel(&id, "no").await, can.cancels, "a cancel");
    is_refused(queue.pause().await, can.pauses, "a pause");
    is_refused(queue.resume().await, can.pauses, "a resumption");
    is_refused(
        queue.limit(Limits::default().running(1)).await,
        can.limits,
        "a limit",
    );
    is_refused(queue.unlimit().await, can.limits, "no limit");
    is_refused(broker.schedules().await, can.schedules, "schedules");
    let delayed = broker.push(job().delay(LONG)).await;
    is_refused(delayed, can.scheduling, "a delay");
    is_refused(broker.push(job().key("k")).await, can.keys, "a key");
    is_refused(
        broker.push(job().unique("m")).await,
        can.unique,
        "a unique key",
    );
    is_refused(broker.push(job().keep(LONG)).await, can.results, "a result");
    is_refused(
        broker.push(job().priority(1)).await,
        can.priorities,
        "a priority",
    );
    let flow =
        brigade::Group::new([Call::<i32>::json("q", &[1])]).then(Call::<i32>::json("q", &[2]));
    is_refused(broker.push_flow(flow).await, can.flows, "a flow");
    let (lowest, highest) = can.priority_range;
    for priority in [lowest.checked_sub(1), highest.checked_add(1)]
        .into_iter()
        .flatten()
        .filter(|_| can.priorities)
    {
        assert_eq!(
            broker
                .push(job().priority(priority))
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::BadOption,
            "{priority}"
        );
    }
    assert!(matches!(
        broker.push(job().priority(highest)).await,
        Ok(PushOutcome::New(_))
    ));
}
