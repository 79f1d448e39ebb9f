//! The log of events on every store: its readers, its bounds, and when it records.
//!
//! Readers of several processes see the same events; one that waits is woken; one that was slow, or
//! that comes after recording has ended, learns that it missed some. Pages are bounded, and one may
//! go on after any event.

use std::time::Duration;

use brigade::job_event::{EVENTS_KEPT, EVENTS_PER_PAGE_MAX, RECORDED_FOR};
use brigade::{ErrorKind, EventCursor, EventRequest, JobEventKind, JobId, JobState};

use super::consumers::elsewhere;
use super::events::{EventReader, kinds};
use super::handlers::HANDLING;
use crate::case::{Case, case};
use crate::child_process::ChildProcess;
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(two_readers_see_what_each_process_did: events, durable, listing),
    case!(a_waiting_reader_wakes_for_an_event: events),
    case!(a_reader_that_was_slow_learns_what_it_missed: events),
    case!(recording_ends_when_no_one_reads: events, clock),
    case!(a_page_is_bounded_and_goes_on_where_it_ended: events),
    case!(a_reader_of_one_queue_gets_only_its_events: events),
    case!(a_cursor_of_another_form_is_refused: events),
];

use JobEventKind::{Done, Interrupted, Leased, Pushed};
use JobState::Ready;

const LONG: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

async fn two_readers_see_what_each_process_did(subject: Subject) {
    let (broker, other) = (&subject.broker, elsewhere(&subject).await);
    let mut first = EventReader::start(broker).await;
    let mut second = EventReader::start(&other).await;
    // What is recorded is known to every process, also to one that never read.
    let mut process = ChildProcess::start(&subject.place).unwrap();
    let queue = other.queue("handled");
    let id = queue.push(&7).await.unwrap();
    let handling = tokio::time::timeout(LONG, process.wait_for_line(HANDLING));
    handling.await.expect("it handles the job").unwrap();
    process.kill().unwrap();
    let back = async {
        loop {
            match queue.lease(LONG, Duration::from_millis(50)).await.unwrap() {
                Some(lease) => break lease,
                None => continue,
            }
        }
    };
    let lease = tokio::time::timeout(LONG, back)
        .await
        .expect("it comes back");
    lease.ack().await.unwrap();
    let wanted = [
        (Pushed, Ready),
        (Leased, JobState::Leased),
        (Interrupted, Ready),
        (Leased, JobState::Leased),
        (Done, JobState::Done),
    ];
    let events = first.rest().await;
    assert_eq!(kinds(&events), wanted);
    assert!(events.iter().all(|event| event.job == id));
    assert_eq!(second.rest().await, events);
    // A cursor goes on in another process.
    second.request.after = Some(events[2].cursor.clone());
    assert_eq!(second.rest().await, events[3..]);
}

async fn a_waiting_reader_wakes_for_an_event(subject: Subject) {
    let (broker, other) = (&subject.broker, elsewhere(&subject).await);
    let mut reader = EventReader::start(broker).await;
    for number in 0..5 {
        reader.request.wait = 4 * LONG;
        let pushing = async {
            tokio::task::yield_now().await;
            other.queue("q").push(&number).await.unwrap()
        };
        let (page, id) = tokio::join!(reader.page(), pushing);
        assert_eq!(kinds(&page.events), [(Pushed, Ready)]);
        assert_eq!(page.events[0].job, id);
    }
    // One that waited in vain comes back in time, and loses nothing.
    reader.request.wait = Duration::from_millis(20);
    assert!(reader.page().await.events.is_empty());
    // One that gave up loses nothing.
    reader.request.wait = LONG;
    let after = reader.request.after.clone();
    let given_up = tokio::time::timeout(Duration::from_millis(20), reader.page()).await;
    assert!(given_up.is_err());
    reader.request.after = after;
    let id = other.queue("q").push(&9).await.unwrap();
    assert_eq!(reader.page().await.events[0].job, id);
}

async fn a_reader_that_was_slow_learns_what_it_missed(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let mut reader = EventReader::start(broker).await;
    reader.request.max = EVENTS_PER_PAGE_MAX;
    let mut last = queue.push(&0).await.unwrap();
    assert_eq!(reader.rest().await.len(), 1);
    // Some more than any store keeps.
    for _ in 0..50 {
        let jobs = (0..1_000).map(|n| queue.job(&n).unwrap()).collect();
        let pushed = broker.push_many(jobs).await.unwrap();
        last = pushed.last().unwrap().id().clone();
    }
    let page = reader.page().await;
    assert!(page.missed && !page.events.is_empty());
    let mut events = page.events;
    events.extend(reader.rest().await);
    assert!(events.len() >= EVENTS_KEPT, "{} are kept", events.len());
    assert!(events.len() < 50_000, "the log is bounded");
    assert_eq!(events.last().unwrap().job, last);
    // From then on it is as any other.
    let id = queue.push(&1).await.unwrap();
    assert_eq!(reader.of(&id).await, [(Pushed, Ready)]);
}

async fn recording_ends_when_no_one_reads(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let mut reader = EventReader::start(broker).await;
    let first = queue.push(&1).await.unwrap();
    // Each request is one more hour.
    broker.clock().advance(RECORDED_FOR - 5 * MINUTE);
    assert_eq!(reader.of(&first).await, [(Pushed, Ready)]);
    broker.clock().advance(RECORDED_FOR - 5 * MINUTE);
    let second = queue.push(&2).await.unwrap();
    assert_eq!(reader.of(&second).await, [(Pushed, Ready)]);
    broker.clock().advance(RECORDED_FOR + 5 * MINUTE);
    let silent = queue.push(&3).await.unwrap();
    let page = reader.page().await;
    assert!(page.missed, "it may have missed something");
    assert!(page.events.iter().all(|event| event.job != silent));
    let third = queue.push(&4).await.unwrap();
    assert_eq!(reader.of(&third).await, [(Pushed, Ready)]);
    // One that was away for that long, in which nothing happened, cannot know that.
    broker.clock().advance(RECORDED_FOR + 5 * MINUTE);
    assert!(reader.page().await.missed);
    let mut new = EventReader::start(broker).await;
    let fourth = queue.push(&5).await.unwrap();
    assert_eq!(new.of(&fourth).await, [(Pushed, Ready)]);
}

async fn a_page_is_bounded_and_goes_on_where_it_ended(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let mut reader = EventReader::start(broker).await;
    let jobs = (0..2_500).map(|n| queue.job(&n).unwrap()).collect();
    let pushed = broker.push_many(jobs).await.unwrap();
    let wanted: Vec<&JobId> = pushed.iter().map(|pushed| pushed.id()).collect();
    let mut events = Vec::new();
    for max in [1, 7, 100, usize::MAX] {
        reader.request.max = max;
        let page = reader.page().await;
        let bound = max.min(EVENTS_PER_PAGE_MAX);
        assert!((bound..bound + 100).contains(&page.events.len()));
        events.extend(page.events);
    }
    events.extend(reader.rest().await);
    let found: Vec<&JobId> = events.iter().map(|event| &event.job).collect();
    assert_eq!(found, wanted, "in order, none twice");
    let mut new = EventReader::start(broker).await;
    assert_eq!(new.rest().await, [], "it reads from now on");
    // One may go on after any event.
    reader.request.after = Some(events[2_000].cursor.clone());
    assert_eq!(reader.rest().await, events[2_001..]);
}

async fn a_reader_of_one_queue_gets_only_its_events(subject: Subject) {
    let broker = &subject.broker;
    let mut reader = EventReader::start(broker).await;
    reader.request.queue = Some("rare".into());
    let mut wanted = Vec::new();
    for number in 0..300 {
        broker.queue("q").push(&number).await.unwrap();
        if number % 100 == 50 {
            wanted.push(broker.queue("rare").push(&number).await.unwrap());
        }
    }
    reader.request.max = 2;
    let mut found = Vec::new();
    while found.len() < wanted.len() {
        let page = reader.page().await;
        assert!(!page.missed && page.events.len() <= 2);
        found.extend(page.events.into_iter().map(|event| event.job));
    }
    assert_eq!(found, wanted);
    assert_eq!(reader.rest().await, []);
}

async fn a_cursor_of_another_form_is_refused(subject: Subject) {
    for text in ["", "nonsense", "1-2-3", "-", "é", "99999999999999999999-1"] {
        let request = EventRequest {
            after: Some(EventCursor::new(text)),
            max: 10,
            ..EventRequest::default()
        };
        let refused = subject.broker.events(request).await;
        assert_eq!(
            refused.unwrap_err().kind(),
            ErrorKind::BadOption,
            "{text:?}"
        );
    }
}
