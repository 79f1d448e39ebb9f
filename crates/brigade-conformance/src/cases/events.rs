//! Events on every store: what happened to jobs, in order, from the first request on.
//!
//! [`EventReader`] reads pages one after the other, as a dashboard does. The cases of this file
//! follow single jobs through their lives: each change is one event, with the state after it, the
//! number of the attempt and the reason. The cases of `event_log` look at the log itself.

use std::time::Duration;

use brigade::job_event::PURGE_EVENTS_MAX;
use brigade::{
    Broker, CancelOutcome, Chain, EventPage, EventRequest, Job, JobEvent, JobEventKind, JobId,
    JobState, Retry, Schedule,
};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(the_events_of_a_job_tell_its_whole_life: events, listing, clock, results),
    case!(an_attempt_has_an_event_of_its_hand_out_and_of_its_end: events, listing, clock),
    case!(a_job_that_waits_ends_with_one_event: events, listing, cancels, clock, scheduling),
    case!(a_cancel_of_a_leased_job_shows_in_the_event_of_its_end: events, listing, cancels),
    case!(the_events_of_a_flow_are_in_order: events, flows, listing),
    case!(a_tick_of_a_schedule_is_an_event_of_a_push: events, schedules, clock),
    case!(a_purge_has_events_of_some_of_the_jobs_that_it_removed: events, listing),
];

use JobEventKind::{
    Cancelled, Dead, Deleted, Done, Failed, Interrupted, Leased, Passed, Pushed, Retried,
};
use JobState::{Blocked, Ready, Retrying, Scheduled};

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);

/// Reads one page after the other.
pub(super) struct EventReader<'a> {
    pub(super) broker: &'a Broker,
    pub(super) request: EventRequest,
}

impl<'a> EventReader<'a> {
    /// Reads from now on.
    pub(super) async fn start(broker: &'a Broker) -> Self {
        let request = EventRequest {
            max: 100,
            ..EventRequest::default()
        };
        let mut reader = Self { broker, request };
        let page = reader.page().await;
        assert!(page.events.is_empty() && !page.missed, "{page:?}");
        reader
    }

    pub(super) async fn page(&mut self) -> EventPage {
        let page = self.broker.events(self.request.clone()).await.unwrap();
        self.request.after = Some(page.next.clone());
        page
    }

    /// Everything that there is, of which nothing was missed.
    pub(super) async fn rest(&mut self) -> Vec<JobEvent> {
        let mut events = Vec::new();
        loop {
            let page = self.page().await;
            assert!(!page.missed, "nothing was missed: {page:?}");
            if page.events.is_empty() {
                return events;
            }
            events.extend(page.events);
        }
    }

    /// The kinds and states of one job.
    pub(super) async fn of(&mut self, id: &JobId) -> Vec<(JobEventKind, JobState)> {
        let events = self.rest().await;
        kinds(events.iter().filter(|event| event.job == *id))
    }
}

pub(super) fn kinds<'a>(
    events: impl IntoIterator<Item = &'a JobEvent>,
) -> Vec<(JobEventKind, JobState)> {
    let events = events.into_iter();
    events.map(|event| (event.kind, event.state)).collect()
}

async fn push(broker: &Broker, job: Job) -> JobId {
    broker.push(job).await.unwrap().id().clone()
}

fn job(broker: &Broker) -> Job {
    broker.queue("q").job(&[1]).unwrap()
}

async fn lease(broker: &Broker) -> brigade::Lease {
    let queue = broker.queue("q");
    queue.lease(LONG, NOW).await.unwrap().unwrap()
}

async fn the_events_of_a_job_tell_its_whole_life(subject: Subject) {
    let broker = &subject.broker;
    let mut reader = EventReader::start(broker).await;
    let before = broker.clock().now();
    let id = push(broker, job(broker).task("t").retries(1).keep(LONG)).await;
    lease(broker).await.pass("not here").await.unwrap();
    lease(broker).await.nack("broken").await.unwrap();
    broker.clock().advance(MINUTE);
    lease(broker).await.nack("broken again").await.unwrap();
    assert!(broker.retry(&id).await.unwrap());
    lease(broker).await.ack_with(&7).await.unwrap();
    let events = reader.rest().await;
    let wanted = [
        (Pushed, Ready),
        (Leased, JobState::Leased),
        (Passed, Ready),
        (Leased, JobState::Leased),
        (Failed, Retrying),
        (Leased, JobState::Leased),
        (Failed, JobState::Dead),
        (Retried, Ready),
        (Leased, JobState::Leased),
        (Done, JobState::Done),
    ];
    assert_eq!(kinds(&events), wanted);
    for event in &events {
        let of_job = (&event.job, &*event.queue, event.task.as_deref());
        assert_eq!(of_job, (&id, "q", Some("t")));
        assert!(event.at + MINUTE > before, "{event:?}");
    }
    let reasons: Vec<_> = events.iter().map(|event| event.reason.as_deref()).collect();
    assert_eq!(
        (reasons[2], reasons[4], reasons[6]),
        (Some("not here"), Some("broken"), Some("broken again"))
    );
    // Each attempt has one number, and the next one a greater one.
    let numbers: Vec<u32> = events.iter().map(|event| event.attempt).collect();
    assert_eq!((numbers[0], numbers[7]), (0, 0));
    for (begin, end) in [(1, 2), (3, 4), (5, 6), (8, 9)] {
        assert!(numbers[begin] > 0 && numbers[begin] == numbers[end]);
    }
    assert!(
        numbers[1] < numbers[3] && numbers[3] < numbers[5],
        "{numbers:?}"
    );
    let history = broker.job(&id).await.unwrap().unwrap().history;
    let kept: Vec<u32> = history.iter().map(|record| record.attempt).collect();
    let ends = [numbers[2], numbers[4], numbers[6], numbers[9]];
    assert_eq!(kept, ends, "as in its history");
    let cursors: std::collections::HashSet<_> =
        events.iter().map(|event| event.cursor.as_str()).collect();
    assert_eq!(cursors.len(), events.len(), "each has a place of its own");
}

async fn an_attempt_has_an_event_of_its_hand_out_and_of_its_end(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let mut reader = EventReader::start(broker).await;
    let begun = [(Pushed, Ready), (Leased, JobState::Leased)];

    let id = push(broker, job(broker)).await;
    queue.take(NOW).await.unwrap().unwrap();
    let taken = [begun[0], begun[1], (Done, JobState::Done)];
    assert_eq!(reader.of(&id).await, taken);

    let id = push(broker, job(broker)).await;
    lease(broker).await.ack().await.unwrap();
    assert_eq!(reader.of(&id).await, taken);

    let id = push(broker, job(broker)).await;
    lease(broker).await.dead_letter("odd").await.unwrap();
    let events = reader.rest().await;
    assert_eq!(kinds(&events)[2..], [(Dead, JobState::Dead)]);
    assert_eq!(events[2].attempt, events[1].attempt, "its holder did that");
    assert!(broker.delete(&id).await.unwrap());
    assert_eq!(reader.of(&id).await, [(Deleted, JobState::Dead)]);

    let id = push(broker, job(broker)).await;
    lease(broker).await.give_back("going down").await.unwrap();
    let held = lease(broker).await;
    broker.clock().advance(2 * MINUTE);
    broker.queues().await.unwrap();
    let lost = [
        begun[0],
        begun[1],
        (Interrupted, Ready),
        begun[1],
        (Interrupted, Ready),
    ];
    assert_eq!(reader.of(&id).await, lost);
    held.ack().await.unwrap();
    assert_eq!(
        reader.rest().await,
        [],
        "a stale settlement changes nothing"
    );
}

async fn a_job_that_waits_ends_with_one_event(subject: Subject) {
    let broker = &subject.broker;
    let mut reader = EventReader::start(broker).await;
    let id = push(broker, job(broker).delay(MINUTE)).await;
    let outcome = broker.cancel(&id, "enough").await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled);
    assert_eq!(
        broker.cancel(&id, "again").await.unwrap(),
        CancelOutcome::Nothing
    );
    let events = reader.rest().await;
    let wanted = [(Pushed, Scheduled), (Cancelled, JobState::Cancelled)];
    assert_eq!(kinds(&events), wanted);
    assert_eq!(events[1].reason.as_deref(), Some("enough"));

    let id = push(broker, job(broker).delay(MINUTE)).await;
    assert!(broker.delete(&id).await.unwrap());
    let wanted = [(Pushed, Scheduled), (Deleted, Scheduled)];
    assert_eq!(reader.of(&id).await, wanted);

    let late = Retry::exponential(LONG, LONG).within(MINUTE);
    let id = push(broker, job(broker).retry(late)).await;
    broker.clock().advance(2 * MINUTE);
    broker.queues().await.unwrap();
    let events = reader.rest().await;
    assert_eq!(kinds(&events), [(Pushed, Ready), (Dead, JobState::Dead)]);
    assert_eq!((events[1].attempt, &events[1].job), (0, &id));

    if broker.capabilities().keys {
        let first = push(broker, job(broker).key("k")).await;
        let id = push(broker, job(broker).key("k")).await;
        assert_eq!(reader.of(&id).await, [(Pushed, Blocked)]);
        assert!(broker.delete(&first).await.unwrap());
    }
    if broker.capabilities().unique {
        let pushed = broker.push(job(broker).unique("m")).await.unwrap();
        let again = broker.push(job(broker).unique("m")).await.unwrap();
        assert_eq!(pushed.id(), again.id());
        assert_eq!(reader.of(pushed.id()).await, [(Pushed, Ready)]);
    }
}

async fn a_cancel_of_a_leased_job_shows_in_the_event_of_its_end(subject: Subject) {
    let broker = &subject.broker;
    let mut reader = EventReader::start(broker).await;
    for kind in [Cancelled, Failed, Dead] {
        let id = push(broker, job(broker).retries(5)).await;
        let held = lease(broker).await;
        let outcome = broker.cancel(&id, "user left").await.unwrap();
        assert_eq!(outcome, CancelOutcome::Asked);
        let settled = match kind {
            Cancelled => held.cancelled("user left").await,
            Failed => held.nack("broken").await,
            _ => held.dead_letter("broken").await,
        };
        settled.unwrap();
        let wanted = [
            (Pushed, Ready),
            (Leased, JobState::Leased),
            (kind, JobState::Cancelled),
        ];
        assert_eq!(reader.of(&id).await, wanted);
    }
}

async fn the_events_of_a_flow_are_in_order(subject: Subject) {
    let broker = &subject.broker;
    let mut reader = EventReader::start(broker).await;
    // A step gets the result of the one before it in front of its arguments.
    let step = || Job {
        payload: "[]".into(),
        ..job(broker)
    };
    let chain = Chain::new(step()).then_job(step()).then_job(step());
    let ids = broker.push_flow(chain).await.unwrap().jobs;
    lease(broker).await.dead_letter("broken").await.unwrap();
    broker.queues().await.unwrap();
    let events = reader.rest().await;
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            let place = ids.iter().position(|id| *id == event.job).unwrap();
            (place, event.kind, event.state)
        })
        .collect();
    let wanted = [
        (0, Pushed, Ready),
        (1, Pushed, Blocked),
        (2, Pushed, Blocked),
        (0, Leased, JobState::Leased),
        (0, Dead, JobState::Dead),
        (1, Dead, JobState::Dead),
        (2, Dead, JobState::Dead),
    ];
    assert_eq!(seen, wanted);
    assert!(events[5].reason.as_deref().unwrap().starts_with("not run"));

    assert!(broker.retry(&ids[0]).await.unwrap());
    let events = reader.rest().await;
    let mut seen: Vec<_> = events
        .iter()
        .map(|event| (&event.job, event.kind))
        .collect();
    seen.sort_by_key(|(job, _)| ids.iter().position(|id| id == *job));
    let wanted: Vec<_> = ids.iter().map(|id| (id, Retried)).collect();
    assert_eq!(seen, wanted, "those after it wait again");
    lease(broker).await.ack().await.unwrap();
    lease(broker).await.ack().await.unwrap();
    lease(broker).await.ack().await.unwrap();
    let wanted = [(Leased, JobState::Leased), (Done, JobState::Done)];
    assert_eq!(kinds(&reader.rest().await), wanted.repeat(3));
}

async fn a_tick_of_a_schedule_is_an_event_of_a_push(subject: Subject) {
    let broker = &subject.broker;
    let mut reader = EventReader::start(broker).await;
    let schedule = Schedule::every("s", MINUTE, job(broker)).unwrap();
    broker.schedule(schedule).await.unwrap();
    broker.clock().advance(MINUTE);
    let held = lease(broker).await;
    let wanted = [(Pushed, Ready), (Leased, JobState::Leased)];
    assert_eq!(reader.of(held.id()).await, wanted);
}

async fn a_purge_has_events_of_some_of_the_jobs_that_it_removed(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    for (count, recorded) in [(5, 5), (2 * PURGE_EVENTS_MAX, PURGE_EVENTS_MAX)] {
        let jobs = (0..count).map(|n| queue.job(&n).unwrap()).collect();
        broker.push_many(jobs).await.unwrap();
        let mut reader = EventReader::start(broker).await;
        assert_eq!(queue.purge().await.unwrap(), count as u64);
        let events = reader.rest().await;
        assert_eq!(events.len(), recorded);
        assert!(kinds(&events).iter().all(|kind| *kind == (Deleted, Ready)));
    }
}
