//! Waiting for jobs and for their ends.

use std::time::Duration;

use brigade::{JobState, Settled};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_waiting_take_wakes_when_a_job_comes),
    case!(waiting_for_a_job_costs_nothing).on_one_thread(),
    case!(who_waits_for_the_end_of_a_job_hears_of_it_at_once: results, listing).on_one_thread(),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

async fn a_waiting_take_wakes_when_a_job_comes(subject: Subject) {
    let queue = subject.broker.queue("q");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move {
            queue
                .take(LONG)
                .await
                .unwrap()
                .unwrap()
                .payload::<i32>()
                .unwrap()
        }
    });
    queue.push(&7).await.unwrap();
    assert_eq!(waiting.await.unwrap(), 7);
}

/// How often this thread has gone to sleep.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .unwrap();
    count.trim().parse().unwrap()
}

async fn waiting_for_a_job_costs_nothing(subject: Subject) {
    let queue = subject.broker.queue("q");
    let before = sleeps();
    let waits = [
        queue.take(Duration::from_millis(300)),
        queue.take(Duration::from_millis(300)),
    ];
    let took = futures_util::future::join_all(waits).await;
    assert!(took.into_iter().all(|took| took.unwrap().is_none()));
    let sleeps = sleeps() - before;
    assert!(sleeps < 200, "who waits is woken {sleeps} times by nothing");
}

async fn who_waits_for_the_end_of_a_job_hears_of_it_at_once(subject: Subject) {
    let queue = subject.broker.queue("q");
    let began = std::time::Instant::now();
    for n in 0..20 {
        let id = subject
            .broker
            .push(queue.job(&n).unwrap().keep(LONG))
            .await
            .unwrap()
            .id()
            .clone();
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        let (ended, settled) = tokio::join!(subject.broker.wait(&id), lease.ack());
        assert_eq!(
            (ended.unwrap().unwrap().state, settled.unwrap()),
            (JobState::Done, Settled::Accepted(None))
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "each is heard of only when it is looked for"
    );
}
