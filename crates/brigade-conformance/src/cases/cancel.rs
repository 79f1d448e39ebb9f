//! Cancels: by the id of a job, while another process may hold its lease.
//!
//! A waiting job ends at once. A leased one is stopped by its holder, which notices the cancel by
//! itself and, at the latest, when it extends the lease; the receipt of the stop is kept for later
//! readers. A caller that gives up cancels its call, but not a job that others pushed, and its
//! queue timeout never ends an attempt that has begun.

use std::future::Future;
use std::time::Duration;

use brigade::{AttemptKind, CancelOutcome, JobState, Settled, Step, StopReceipt, Task};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_waiting_job_ends_at_once: cancels, listing, scheduling),
    case!(the_holder_hears_of_it_at_once_and_when_it_extends: cancels, listing),
    case!(who_stops_a_job_gets_its_holder_s_receipt: cancels, listing),
    case!(who_cancels_a_call_gets_its_holder_s_receipt: results, cancels, listing),
    case!(a_job_that_ends_first_keeps_its_end: cancels, listing),
    case!(a_cancel_of_an_earlier_lease_does_not_reach_the_next: cancels, listing, clock),
    case!(only_what_is_not_leased_is_deleted: cancels, listing),
    case!(what_its_holder_sets_aside_has_that_in_its_history: cancels, listing),
    case!(a_receipt_is_there_for_whoever_looks_later: cancels, listing),
    case!(a_call_that_waits_for_another_s_job_does_not_cancel_it: cancels, listing, unique),
    case!(a_queue_timeout_never_ends_an_attempt_that_has_begun: results or answers),
    case!(a_call_that_does_not_begin_within_its_queue_timeout_is_not_run: results, cancels),
    case!(an_accepted_cancel_holds_however_the_attempt_ends: cancels, listing, clock),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

/// Far beyond what anything here takes.
async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LONG, what).await.expect("it comes")
}

async fn a_waiting_job_ends_at_once(subject: Subject) {
    let queue = subject.broker.queue("q");
    for job in [queue.job(&1).unwrap(), queue.job(&2).unwrap().delay(LONG)] {
        let id = subject.broker.push(job).await.unwrap().id().clone();
        assert_eq!(
            subject.broker.cancel(&id, "not needed").await.unwrap(),
            CancelOutcome::Cancelled
        );
        assert_eq!(
            subject.broker.cancel(&id, "again").await.unwrap(),
            CancelOutcome::Nothing
        );
        let job = subject.broker.job(&id).await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.reason.as_deref()),
            (JobState::Cancelled, Some("not needed"))
        );
    }
    assert!(queue.take(NOW).await.unwrap().is_none());
    let id = queue.push(&3).await.unwrap();
    let stopped = subject
        .broker
        .stop(&id, "not needed")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (stopped.state, stopped.receipt.unwrap().step),
        (Some(JobState::Cancelled), Step::NotStarted)
    );
    assert!(subject.broker.stop(&id, "again").await.unwrap().is_none());
}

async fn the_holder_hears_of_it_at_once_and_when_it_extends(subject: Subject) {
    let queue = subject.broker.queue("q");
    let (id, other) = (queue.push(&1).await.unwrap(), queue.push(&2).await.unwrap());
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let beside = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!((lease.id(), beside.id()), (&id, &other));
    let hearing = tokio::spawn({
        let lease = lease.clone();
        async move { lease.cancel_asked().await }
    });
    assert_eq!(
        subject.broker.cancel(&id, "stop").await.unwrap(),
        CancelOutcome::Asked
    );
    assert_eq!(soon(hearing).await.unwrap(), "stop");
    assert_eq!(
        soon(lease.cancel_asked()).await,
        "stop",
        "who asks later hears of it too"
    );
    assert_eq!(
        lease.extend(LONG).await.unwrap(),
        Settled::Accepted(Some("stop".to_owned()))
    );
    let asked = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (asked.state, asked.cancel.as_deref()),
        (JobState::Leased, Some("stop"))
    );

    lease.cancelled("stop").await.unwrap();
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.cancel, job.failed, job.interrupted),
        (JobState::Cancelled, None, 0, 0)
    );
    assert_eq!(
        (job.history.len(), job.history[0].kind, &job.history[0].stop),
        (1, AttemptKind::Cancelled, &None)
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(200), beside.cancel_asked())
            .await
            .is_err(),
        "nobody cancelled that one"
    );
    assert_eq!(beside.extend(LONG).await.unwrap(), Settled::Accepted(None));
}

async fn who_stops_a_job_gets_its_holder_s_receipt(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let receipt = StopReceipt::new(Step::Killed, Duration::from_millis(7));
    let holding = async {
        let reason = lease.cancel_asked().await;
        lease
            .clone()
            .cancelled_by(reason, receipt.clone())
            .await
            .unwrap()
    };
    let (stopped, settled) = soon(Box::pin(async {
        tokio::join!(subject.broker.stop(&id, "enough"), holding)
    }))
    .await;
    let stopped = stopped.unwrap().unwrap();
    assert_eq!(
        (stopped.state, stopped.receipt, settled),
        (
            Some(JobState::Cancelled),
            Some(receipt),
            Settled::Accepted(None)
        )
    );
}

/// Not one of the caller's own, whose times would be others.
async fn who_cancels_a_call_gets_its_holder_s_receipt(subject: Subject) {
    const HELD: Task<(), ()> = Task::new("held");
    let waiting = subject.broker.call(HELD.call(()));
    let receipt = soon(waiting.cancel("enough")).await.unwrap();
    assert_eq!(
        (receipt.step, receipt.took),
        (Step::NotStarted, Duration::ZERO)
    );

    let call = subject.broker.call(HELD.call(()));
    let lease = subject.broker.queue("held").lease(LONG, LONG).await;
    let lease = lease.unwrap().unwrap();
    let receipt = StopReceipt::new(Step::Killed, Duration::from_millis(7));
    let holding = async {
        let reason = lease.cancel_asked().await;
        lease.clone().cancelled_by(reason, receipt.clone()).await
    };
    let (found, settled) = soon(async { tokio::join!(call.cancel("enough"), holding) }).await;
    assert_eq!(
        (found, settled.unwrap()),
        (Some(receipt), Settled::Accepted(None))
    );
}

async fn a_job_that_ends_first_keeps_its_end(subject: Subject) {
    let queue = subject.broker.queue("q");
    for keep in [true, false] {
        let job = queue.job(&1).unwrap();
        let id = subject
            .broker
            .push(if keep { job.keep(LONG) } else { job })
            .await
            .unwrap()
            .id()
            .clone();
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        let holding = async {
            lease.cancel_asked().await;
            lease.clone().ack().await.unwrap()
        };
        let (stopped, settled) = soon(Box::pin(async {
            tokio::join!(subject.broker.stop(&id, "enough"), holding)
        }))
        .await;
        let stopped = stopped.unwrap().unwrap();
        assert_eq!(
            (stopped.state, settled),
            (keep.then_some(JobState::Done), Settled::Accepted(None))
        );
        assert!(stopped.receipt.is_none() && stopped.report.is_none());
    }
}

async fn a_cancel_of_an_earlier_lease_does_not_reach_the_next(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let late = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(
        subject.broker.cancel(&id, "stop").await.unwrap(),
        CancelOutcome::Asked
    );
    subject.broker.clock().advance(2 * LONG);
    assert!(
        queue.lease(LONG, NOW).await.unwrap().is_none(),
        "given back, it is not run again"
    );
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.reason.as_deref()),
        (JobState::Cancelled, Some("stop"))
    );
    assert_eq!(late.cancelled("stop").await.unwrap(), Settled::Stale);
}

async fn only_what_is_not_leased_is_deleted(subject: Subject) {
    let queue = subject.broker.queue("q");
    let (leased, waits, dead) = (
        queue.push(&1).await.unwrap(),
        queue.push(&2).await.unwrap(),
        queue.push(&3).await.unwrap(),
    );
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let given_back = queue.lease(LONG, NOW).await.unwrap().unwrap();
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .dead_letter("odd")
        .await
        .unwrap();
    given_back.pass("not now").await.unwrap();
    let Subject { broker, .. } = &subject;
    assert!(!deleted(broker.delete(&leased).await) && !deleted(broker.delete_dead(&leased).await));
    assert!(
        !deleted(broker.delete_dead(&waits).await),
        "it waits, it is not dead"
    );
    assert!(deleted(broker.delete(&waits).await) && !deleted(broker.delete(&waits).await));
    assert!(deleted(broker.delete_dead(&dead).await) && !deleted(broker.delete_dead(&dead).await));
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
}

fn deleted(answer: Result<bool, brigade::Error>) -> bool {
    answer.unwrap()
}

async fn what_its_holder_sets_aside_has_that_in_its_history(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .dead_letter("odd")
        .await
        .unwrap();
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    let record = &job.history[0];
    assert_eq!(
        (
            job.state,
            record.kind,
            record.attempt,
            record.reason.as_str()
        ),
        (JobState::Dead, AttemptKind::SetAside, 1, "odd")
    );
}

/// Another connection finds the same: the receipt is stored.
async fn a_receipt_is_there_for_whoever_looks_later(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    subject.broker.cancel(&id, "enough").await.unwrap();
    let receipt = StopReceipt::new(Step::Terminated, LONG);
    lease.cancelled_by("enough", receipt.clone()).await.unwrap();
    let elsewhere = if subject.broker.capabilities().durable {
        subject.place.connect().await
    } else {
        subject.broker.clone()
    };
    assert_eq!(
        elsewhere.job(&id).await.unwrap().unwrap().history[0].stop,
        Some(receipt)
    );
}

async fn a_call_that_waits_for_another_s_job_does_not_cancel_it(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let call = || brigade::Call::<i32>::json("q", &[1]).unique("once");
    let first = broker.call(call());
    let rest = async {
        // It is stored, and no consumer holds it.
        queue
            .lease(LONG, LONG)
            .await
            .unwrap()
            .unwrap()
            .pass("not now")
            .await
            .unwrap();
        let late = broker
            .call(call().queue_timeout(Duration::from_millis(20)))
            .await
            .unwrap_err();
        assert!(matches!(late, brigade::CallError::TimedOut(_)), "{late}");
        let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
        assert_eq!(
            lease.extend(LONG).await.unwrap(),
            Settled::Accepted(None),
            "nobody cancelled it"
        );
        let second = broker.call(call());
        assert_eq!(
            lease.clone().ack_with(&7).await.unwrap(),
            Settled::Accepted(None)
        );
        // The second call may have come after the end of the job: then it is a job of its own.
        let serve = async {
            loop {
                let own = queue.lease(LONG, Duration::from_millis(100)).await.unwrap();
                if let Some(own) = own {
                    own.ack_with(&7).await.unwrap();
                }
            }
        };
        tokio::select! {
            second = second => assert_eq!(second.unwrap(), 7),
            () = serve => {}
        }
    };
    let (first, ()) = Box::pin(soon(async { tokio::join!(first, rest) })).await;
    assert_eq!(first.unwrap(), 7);
}

/// How long a caller waits for its call to begin, in these tests.
const WAIT: Duration = Duration::from_millis(300);

async fn a_queue_timeout_never_ends_an_attempt_that_has_begun(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    // Long enough for a holder that has to begin first.
    const WAIT: Duration = Duration::from_secs(2);
    let call = broker.call(brigade::Call::<i32>::json("q", &[1]).queue_timeout(WAIT));
    let holding = async {
        let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
        // Its caller's patience is over while it runs.
        tokio::time::sleep(WAIT + WAIT / 2).await;
        assert_eq!(
            lease.extend(LONG).await.unwrap(),
            Settled::Accepted(None),
            "nobody cancelled it"
        );
        lease.ack_with(&7).await.unwrap()
    };
    let (result, settled) = Box::pin(soon(async { tokio::join!(call, holding) })).await;
    assert_eq!((result.unwrap(), settled), (7, Settled::Accepted(None)));
}

async fn a_call_that_does_not_begin_within_its_queue_timeout_is_not_run(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let call = || brigade::Call::<i32>::json("q", &[1]).queue_timeout(WAIT);
    let error = soon(broker.call(call())).await.unwrap_err();
    assert!(
        matches!(
            error,
            brigade::CallError::TimedOut(brigade::TimedOut::Queue(_))
        ),
        "{error}"
    );
    assert!(queue.lease(LONG, NOW).await.unwrap().is_none());
    // What was given back untouched waits again.
    let passing = async {
        let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
        tokio::time::sleep(2 * WAIT).await;
        lease.pass("not here").await.unwrap();
    };
    let (error, ()) = Box::pin(soon(async { tokio::join!(broker.call(call()), passing) })).await;
    assert!(matches!(
        error.unwrap_err(),
        brigade::CallError::TimedOut(brigade::TimedOut::Queue(_))
    ));
    assert!(queue.lease(LONG, NOW).await.unwrap().is_none());
}

/// However the attempt ends but well: the job is not run again, and is no dead letter.
async fn an_accepted_cancel_holds_however_the_attempt_ends(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let endings = [
        "nack",
        "nack later",
        "last nack",
        "pass",
        "give back",
        "dead letter",
        "expiry",
        "too late for another",
    ];
    for ending in endings {
        let job = match ending {
            "last nack" => queue.job(&1).unwrap(),
            "too late for another" => queue
                .job(&1)
                .unwrap()
                .retries(3)
                .retry(brigade::Retry::default().within(LONG)),
            _ => queue.job(&1).unwrap().retries(3),
        };
        let id = broker.push(job).await.unwrap().id().clone();
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(
            broker.cancel(&id, "stop").await.unwrap(),
            CancelOutcome::Asked,
            "{ending}"
        );
        let settled = match ending {
            "nack" | "last nack" => lease.nack("odd").await,
            "nack later" => lease.nack_later("odd", LONG).await,
            "too late for another" => lease.nack_later("odd", 2 * LONG).await,
            "pass" => lease.pass("busy").await,
            "give back" => lease.give_back("stopping").await,
            "dead letter" => lease.dead_letter("odd").await,
            _ => {
                broker.clock().advance(2 * LONG);
                assert!(queue.lease(LONG, NOW).await.unwrap().is_none(), "{ending}");
                lease.nack("odd").await
            }
        };
        let expected = if ending == "expiry" {
            Settled::Stale
        } else {
            Settled::Accepted(None)
        };
        assert_eq!(settled.unwrap(), expected, "{ending}");
        let job = broker.job(&id).await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.reason.as_deref(), job.cancel),
            (JobState::Cancelled, Some("stop"), None),
            "{ending}"
        );
        assert_eq!(
            job.history.len(),
            1,
            "{ending}: how the attempt ended is kept"
        );
        assert!(
            queue.lease(LONG, NOW).await.unwrap().is_none(),
            "{ending}: not run again"
        );
    }
}
