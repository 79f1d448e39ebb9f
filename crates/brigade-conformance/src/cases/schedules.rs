//! Schedules: each tick is fired once, whatever the clocks do and however many processes look.
//!
//! Any consumer that asks for jobs fires the ticks that are due: pushing the job of a tick and
//! setting the next tick is one step. A schedule that is set again with the same times keeps its
//! next tick. [`Wall`] moves the wall clock of a connection from tick to tick.

use std::time::{Duration, SystemTime};

use brigade::{Broker, ErrorKind, Job, Missed, Recurrence, Schedule, Tick};
use jiff::Timestamp;

use crate::case::{Case, case};
use crate::log;
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_job_comes_at_each_tick_and_says_which_it_is_for: schedules, listing, clock),
    case!(schedules_are_listed_and_removed: schedules, clock),
    case!(a_waiting_consumer_wakes_for_a_tick: schedules),
    case!(a_deploy_neither_fires_nor_skips_a_tick: schedules, clock),
    case!(what_cannot_be_meant_is_refused_with_what_is_wrong: schedules, scheduling),
    case!(a_tick_is_skipped_while_a_job_of_its_mark_is_there: schedules, clock, unique),
    case!(h49_two_schedulers_fire_each_tick_once: schedules, durable, clock),
    case!(a_schedule_that_moves_to_another_queue_keeps_its_due_tick: schedules, clock),
    case!(
        a_schedule_that_cannot_be_fired_holds_up_no_hand_out:
        schedules, clock, unique, scheduling
    ),
    case!(
        the_schedules_of_a_program_are_set_at_once_and_what_it_does_not_name_any_more_goes:
        schedules
    ),
];

pub(super) const LONG: Duration = Duration::from_secs(30);
pub(super) const NOW: Duration = Duration::ZERO;
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn job(broker: &Broker) -> Job {
    broker.queue("q").job(&1).unwrap()
}

pub(super) fn cron(broker: &Broker, expression: &str) -> Schedule {
    Schedule::cron("s", expression, job(broker)).unwrap()
}

pub(super) fn every(broker: &Broker, interval: Duration) -> Schedule {
    Schedule::every("s", interval, job(broker)).unwrap()
}

pub(super) fn time(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().into()
}

pub(super) fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap().to_string()
}

/// Sets a broker's wall clock.
pub(super) struct Wall<'a> {
    broker: &'a Broker,
    off: i128,
}

impl<'a> Wall<'a> {
    pub(super) fn of(broker: &'a Broker) -> Self {
        Self { broker, off: 0 }
    }

    pub(super) fn set(&mut self, to: SystemTime) {
        let millis = |time| i128::from(Timestamp::try_from(time).unwrap().as_millisecond());
        let by = millis(to) - millis(SystemTime::now()) - self.off;
        self.off += by;
        let step = Duration::from_millis(u64::try_from(by.unsigned_abs()).unwrap());
        if by < 0 {
            self.broker.clock().set_back(step)
        } else {
            self.broker.clock().set_forward(step)
        }
    }
}

/// Takes every job that there is; their ticks.
pub(super) async fn ticks(broker: &Broker) -> Vec<SystemTime> {
    let mut ticks = Vec::new();
    while let Some(job) = broker.queue("q").take(NOW).await.unwrap() {
        ticks.push(job.tick().unwrap().at);
    }
    ticks
}

pub(super) async fn next(broker: &Broker) -> SystemTime {
    broker.schedules().await.unwrap()[0].next
}

async fn a_job_comes_at_each_tick_and_says_which_it_is_for(Subject { broker, .. }: Subject) {
    let mut wall = Wall::of(&broker);
    wall.set(time("2026-11-21T02:59:00Z"));
    let scheduled = broker
        .schedule(cron(&broker, "0  3 * * * ").zone("Europe/Berlin"))
        .await
        .unwrap();
    assert_eq!(text(scheduled.next), "2026-11-22T02:00:00Z");
    assert!(ticks(&broker).await.is_empty());
    wall.set(scheduled.next + MINUTE / 2);
    let lease = broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap();
    let tick = lease.tick().unwrap();
    assert_eq!(
        (tick.schedule.as_str(), tick.at, lease.json()),
        ("s", scheduled.next, "1")
    );
    let info = broker.job(lease.id()).await.unwrap().unwrap();
    assert_eq!(
        info.tick.as_ref().map(|Tick { at, .. }| *at),
        Some(scheduled.next)
    );
    assert_eq!(text(next(&broker).await), "2026-11-23T02:00:00Z");
    lease.ack().await.unwrap();
    assert!(ticks(&broker).await.is_empty(), "a tick is fired once");
}

async fn schedules_are_listed_and_removed(Subject { broker, .. }: Subject) {
    let reports = |name: &str| {
        Schedule::every(
            name,
            HOUR,
            broker.queue("reports").job(&7).unwrap().task("report"),
        )
        .unwrap()
    };
    broker
        .schedule(reports("b").missed(Missed::All).grace(MINUTE * 5))
        .await
        .unwrap();
    let nightly = broker
        .schedule(Schedule::cron("a", "@daily", job(&broker)).unwrap())
        .await
        .unwrap();
    let all = broker.schedules().await.unwrap();
    assert_eq!((all.len(), &all[0]), (2, &nightly));
    assert_eq!(
        all[0].recurrence,
        Recurrence::Cron {
            expression: "@daily".to_owned(),
            zone: "UTC".to_owned()
        }
    );
    assert_eq!((all[0].missed, all[0].grace), (Missed::Once, MINUTE));
    assert_eq!(
        (all[1].name.as_str(), &all[1].recurrence, all[1].missed),
        ("b", &Recurrence::Every(HOUR), Missed::All)
    );
    assert_eq!(
        (
            all[1].queue.as_str(),
            all[1].task.as_deref(),
            all[1].payload.as_str()
        ),
        ("reports", Some("report"), "7")
    );
    assert!(broker.unschedule("a").await.unwrap());
    assert!(!broker.unschedule("a").await.unwrap());
    assert!(broker.unschedule("b").await.unwrap());
    broker.clock().advance(DAY);
    assert!(ticks(&broker).await.is_empty());
}

async fn a_waiting_consumer_wakes_for_a_tick(Subject { broker, .. }: Subject) {
    let waiting = tokio::spawn({
        let queue = broker.queue("q");
        async move { queue.take(LONG).await.unwrap().unwrap().tick().unwrap().at }
    });
    let scheduled = broker
        .schedule(every(&broker, Duration::from_millis(700)))
        .await
        .unwrap();
    assert_eq!(waiting.await.unwrap(), scheduled.next);
}

async fn a_deploy_neither_fires_nor_skips_a_tick(Subject { broker, .. }: Subject) {
    let mut wall = Wall::of(&broker);
    wall.set(time("2026-11-21T02:00:00Z"));
    let first = broker
        .schedule(cron(&broker, "0 3 * * *"))
        .await
        .unwrap()
        .next;
    wall.set(first + MINUTE / 2);
    // It is due and no consumer has asked yet; the same is said again, with another job and
    // policy.
    let other = Schedule::cron("s", "0 3 * * *", broker.queue("q").job(&"new").unwrap())
        .unwrap()
        .missed(Missed::Skip);
    assert_eq!(broker.schedule(other).await.unwrap().next, first);
    let taken = broker.queue("q").take(NOW).await.unwrap().unwrap();
    assert_eq!((taken.tick().unwrap().at, taken.json()), (first, "\"new\""));
    assert_eq!(
        broker
            .schedule(cron(&broker, "0 3 * * *"))
            .await
            .unwrap()
            .next,
        first + DAY
    );
    assert!(ticks(&broker).await.is_empty());
    // Another zone, expression or kind starts again, from the next tick on.
    let anew = [
        cron(&broker, "0 3 * * *").zone("Asia/Tokyo"),
        cron(&broker, "5 3 * * *"),
        every(&broker, HOUR),
    ];
    for (schedule, next) in anew.into_iter().zip([
        "2026-11-21T18:00:00Z",
        "2026-11-21T03:05:00Z",
        "2026-11-21T04:00:00Z",
    ]) {
        assert_eq!(text(broker.schedule(schedule).await.unwrap().next), next);
    }
    assert!(ticks(&broker).await.is_empty());
}

async fn what_cannot_be_meant_is_refused_with_what_is_wrong(Subject { broker, .. }: Subject) {
    let job = || job(&broker);
    let named = |name: &str| Schedule::every(name, HOUR, job()).unwrap();
    let other_job = |job: Job| Schedule::every("s", HOUR, job).unwrap();
    let cases = [
        (cron(&broker, "0 3 * *"), "it has 4 fields"),
        (
            cron(&broker, "0 24 * * *"),
            r#"its field 2, "24", is no hour: 0 to 23"#,
        ),
        (cron(&broker, "0 0 30 2 *"), "no date ever matches it"),
        (
            cron(&broker, "0 3 * * *").zone("Europe/Berlln"),
            r#"time zone "Europe/Berlln""#,
        ),
        (every(&broker, Duration::ZERO), "interval of 0ns"),
        (named(""), "name a schedule"),
        (named(&"x".repeat(201)), "name a schedule"),
        (named("a\u{1b}b"), "name a schedule"),
        (other_job(broker.queue("").job(&1).unwrap()), "name a queue"),
        (other_job(job().at(SystemTime::now())), "a time of its own"),
    ];
    for (schedule, why) in cases {
        let error = broker.schedule(schedule).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::BadOption && error.to_string().contains(why),
            "{error}"
        );
    }
    let large = broker.queue("q").job(&"x".repeat((64 << 10) - 1)).unwrap();
    assert_eq!(
        broker.schedule(other_job(large)).await.unwrap_err().kind(),
        ErrorKind::TooLarge
    );
    assert!(broker.schedules().await.unwrap().is_empty());
    // One that is refused leaves the one of its name as it is.
    let at_the_limit = broker.queue("q").job(&"x".repeat((64 << 10) - 2)).unwrap();
    let kept = broker.schedule(other_job(at_the_limit)).await.unwrap();
    broker
        .schedule(cron(&broker, "61 * * * *"))
        .await
        .unwrap_err();
    assert_eq!(broker.schedules().await.unwrap(), [kept]);
}

async fn a_tick_is_skipped_while_a_job_of_its_mark_is_there(Subject { broker, .. }: Subject) {
    let logged = log::start();
    let schedule = Schedule::every("unique ones", HOUR, job(&broker).unique("one")).unwrap();
    let first = broker.schedule(schedule).await.unwrap().next;
    Wall::of(&broker).set(first);
    let lease = broker.queue("q").lease(DAY, NOW).await.unwrap().unwrap();
    broker.clock().advance(HOUR);
    assert!(ticks(&broker).await.is_empty());
    logged.has(&[
        "skipped a tick",
        "unique ones",
        &text(first + HOUR),
        lease.id().as_str(),
    ]);
    assert_eq!(next(&broker).await, first + 2 * HOUR);
    lease.ack().await.unwrap();
    broker.clock().advance(HOUR);
    assert_eq!(ticks(&broker).await, [first + 2 * HOUR]);
}

async fn h49_two_schedulers_fire_each_tick_once(Subject { broker, place }: Subject) {
    let others = [place.connect().await, place.connect().await];
    let first = broker
        .schedule(every(&broker, HOUR).missed(Missed::All))
        .await
        .unwrap()
        .next;
    // Three that race, whose clocks differ by half an hour.
    let brokers = [broker, others[0].clone(), others[1].clone()];
    let racing = brokers.iter().enumerate().map(|(number, broker)| {
        let (broker, number) = (broker.clone(), u32::try_from(number).unwrap());
        tokio::spawn(async move {
            let (mut wall, mut fired) = (Wall::of(&broker), Vec::new());
            for step in 0..40 {
                wall.set(first + step * HOUR + number * HOUR / 4);
                fired.extend(ticks(&broker).await);
            }
            fired
        })
    });
    let mut fired = Vec::new();
    for racer in racing.collect::<Vec<_>>() {
        fired.extend(racer.await.unwrap());
    }
    fired.sort_unstable();
    assert_eq!(fired, (0..40).map(|n| first + n * HOUR).collect::<Vec<_>>());
}

async fn a_schedule_that_moves_to_another_queue_keeps_its_due_tick(
    Subject { broker, .. }: Subject,
) {
    broker.schedule(every(&broker, HOUR)).await.unwrap();
    broker.clock().advance(HOUR + MINUTE);
    // A deploy comes before anything has looked.
    let moved = Schedule::every("s", HOUR, broker.queue("other").job(&2).unwrap()).unwrap();
    broker.schedule(moved).await.unwrap();
    assert_eq!(
        broker
            .queue("other")
            .take(NOW)
            .await
            .unwrap()
            .expect("its due tick")
            .json(),
        "2"
    );
    assert!(
        broker.queue("other").take(NOW).await.unwrap().is_none(),
        "it comes once"
    );
    assert!(broker.queue("q").take(NOW).await.unwrap().is_none());
    assert_eq!(broker.schedules().await.unwrap().len(), 1);
}

async fn a_schedule_that_cannot_be_fired_holds_up_no_hand_out(Subject { broker, .. }: Subject) {
    // Its job's unique key stands for another: nothing is pushed. What each broker refuses of
    // itself is among its own tests.
    let unique = broker.queue("q").job(&1).unwrap().unique("only one");
    broker
        .push(broker.queue("held").job(&0).unwrap())
        .await
        .unwrap();
    broker.push(unique.clone().delay(DAY)).await.unwrap();
    broker
        .schedule(Schedule::every("s", HOUR, unique).unwrap())
        .await
        .unwrap();
    broker.clock().advance(HOUR + MINUTE);
    assert_eq!(
        broker
            .queue("held")
            .take(NOW)
            .await
            .unwrap()
            .expect("another queue goes on")
            .json(),
        "0"
    );
}

async fn the_schedules_of_a_program_are_set_at_once_and_what_it_does_not_name_any_more_goes(
    subject: Subject,
) {
    let broker = &subject.broker;
    let of = |name: &str, expression: &str| Schedule::cron(name, expression, job(broker)).unwrap();
    let names = |scheduled: &[brigade::Scheduled]| {
        scheduled
            .iter()
            .map(|it| it.name.clone())
            .collect::<Vec<_>>()
    };
    broker.schedule(of("alone", "@daily")).await.unwrap();
    broker
        .set_schedules("other", [of("others", "@daily")])
        .await
        .unwrap();
    let changes = broker
        .set_schedules(
            "shop",
            [of("a", "@daily"), of("b", "@daily"), of("c", "@daily")],
        )
        .await
        .unwrap();
    assert_eq!(
        (
            names(&changes.added).join(","),
            changes.changed.len(),
            changes.removed.len()
        ),
        ("a,b,c".to_owned(), 0, 0)
    );
    // The next deploy: b has other ticks, c another job, a is gone, d is new.
    let c = || Schedule::cron("c", "@daily", job(broker).retries(7)).unwrap();
    let next = || {
        [
            of("b", "@hourly"),
            c(),
            of("d", "@weekly"),
            of("alone", "@daily"),
        ]
    };
    let changes = broker.set_schedules("shop", next()).await.unwrap();
    assert_eq!(
        (names(&changes.added), changes.removed),
        (vec!["d".to_owned()], vec!["a".to_owned()])
    );
    assert_eq!(names(&changes.changed), ["b", "c", "alone"]);
    assert_eq!(
        broker.set_schedules("shop", next()).await.unwrap(),
        brigade::ScheduleChanges::default(),
        "it is as it is said"
    );
    assert_eq!(
        names(&broker.schedules().await.unwrap()),
        ["alone", "b", "c", "d", "others"]
    );
    wrong_sets_change_nothing(broker, of).await;
    assert_eq!(broker.schedules().await.unwrap().len(), 5);
    assert_eq!(
        broker.set_schedules("shop", []).await.unwrap().removed,
        ["alone", "b", "c", "d"]
    );
}

async fn wrong_sets_change_nothing(broker: &Broker, of: impl Fn(&str, &str) -> Schedule) {
    for (wrong, why) in [
        (vec![of("e", "@daily"), of("f", "0 24 * * *")], "is no hour"),
        (
            vec![of("e", "@daily"), of("e", "@hourly")],
            "two have the name",
        ),
        (
            vec![of("e", "@daily"), of("others", "@hourly")],
            "is of the group",
        ),
    ] {
        let error = broker.set_schedules("shop", wrong).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::BadOption && error.to_string().contains(why),
            "{error}"
        );
    }
}
