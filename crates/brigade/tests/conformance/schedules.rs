//! Schedules: each tick once, whatever the clocks do and however many look.

use std::time::{Duration, SystemTime};

use brigade::{Broker, ErrorKind, Job, Missed, Recurrence, Schedule, Tick};
use jiff::Timestamp;

use super::log;
use super::{Subject, on_brokers_that};

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn job(broker: &Broker) -> Job {
    broker.queue("q").job(&1).unwrap()
}

fn cron(broker: &Broker, expression: &str) -> Schedule {
    Schedule::cron("s", expression, job(broker)).unwrap()
}

fn every(broker: &Broker, interval: Duration) -> Schedule {
    Schedule::every("s", interval, job(broker)).unwrap()
}

fn time(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().into()
}

fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap().to_string()
}

/// Sets a broker's wall clock.
struct Wall<'a> {
    broker: &'a Broker,
    off: i128,
}

impl<'a> Wall<'a> {
    fn of(broker: &'a Broker) -> Self {
        Self { broker, off: 0 }
    }

    fn set(&mut self, to: SystemTime) {
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
async fn ticks(broker: &Broker) -> Vec<SystemTime> {
    let mut ticks = Vec::new();
    while let Some(job) = broker.queue("q").take(NOW).await.unwrap() {
        ticks.push(job.tick().unwrap().at);
    }
    ticks
}

async fn next(broker: &Broker) -> SystemTime {
    broker.schedules().await.unwrap()[0].next
}

#[test]
fn a_job_comes_at_each_tick_and_says_which_it_is_for() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
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
        },
    );
}

#[test]
fn schedules_are_listed_and_removed() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
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
        },
    );
}

#[test]
fn a_waiting_consumer_wakes_for_a_tick() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
            let waiting = tokio::spawn({
                let queue = broker.queue("q");
                async move { queue.take(LONG).await.unwrap().unwrap().tick().unwrap().at }
            });
            let scheduled = broker
                .schedule(every(&broker, Duration::from_millis(700)))
                .await
                .unwrap();
            assert_eq!(waiting.await.unwrap(), scheduled.next);
        },
    );
}

#[test]
fn a_deploy_neither_fires_nor_skips_a_tick() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
            let mut wall = Wall::of(&broker);
            wall.set(time("2026-11-21T02:00:00Z"));
            let first = broker
                .schedule(cron(&broker, "0 3 * * *"))
                .await
                .unwrap()
                .next;
            wall.set(first + MINUTE / 2);
            // It is due and nobody has asked yet; the same is said again, with another job and
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
            // Another zone, expression or kind begins anew, from the next tick on.
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
        },
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_is_wrong() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
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
        },
    );
}

#[test]
fn a_tick_is_skipped_while_a_job_of_its_mark_is_there() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
            let logged = log::start();
            let schedule =
                Schedule::every("unique ones", HOUR, job(&broker).unique("one")).unwrap();
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
        },
    );
}

#[test]
fn h48_a_scheduler_stopped_over_five_ticks_obeys_its_policy() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
            let logged = log::start();
            let policies: [(Missed, &[u32]); 3] = [
                (Missed::Skip, &[]),
                (Missed::Once, &[5]),
                (Missed::All, &[1, 2, 3, 4, 5]),
            ];
            for (missed, fired) in policies {
                let name = format!("stopped, {missed:?}");
                let schedule = Schedule::cron(name.as_str(), "0 * * * *", job(&broker))
                    .unwrap()
                    .missed(missed);
                let first = broker.schedule(schedule).await.unwrap().next;
                let before = first - HOUR;
                let mut wall = Wall::of(&broker);
                wall.set(before + 5 * HOUR + 2 * MINUTE);
                assert_eq!(
                    ticks(&broker).await,
                    fired.iter().map(|n| before + *n * HOUR).collect::<Vec<_>>(),
                    "{missed:?}"
                );
                logged.has(&[
                    "were missed",
                    &name,
                    &text(first),
                    &text(before + 5 * HOUR),
                    &format!("{missed:?}"),
                ]);
                assert!(ticks(&broker).await.is_empty());
                assert_eq!(next(&broker).await, before + 6 * HOUR);
                broker.unschedule(&name).await.unwrap();
                wall.set(SystemTime::now());
            }
        },
    );
}

#[test]
fn h48_no_more_than_a_thousand_missed_ticks_are_made_up_for() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
            let logged = log::start();
            // Taking a thousand jobs one by one may take longer than a minute: the tick after these
            // must not fall due meanwhile.
            let schedule = Schedule::every("thousands", HOUR, job(&broker))
                .unwrap()
                .missed(Missed::All);
            let first = broker.schedule(schedule).await.unwrap().next;
            Wall::of(&broker).set(first + 1_500 * HOUR + MINUTE / 60);
            // The 1,000, and the one that is in time.
            let fired = ticks(&broker).await;
            assert_eq!(
                (fired.len(), fired[0], fired[999], fired[1_000]),
                (1_001, first, first + 999 * HOUR, first + 1_500 * HOUR)
            );
            logged.has(&[
                "not made up for",
                "thousands",
                &text(first + 1_000 * HOUR),
                &text(first + 1_499 * HOUR),
            ]);
        },
    );
}

#[test]
fn h48_a_wall_clock_that_jumps_moves_no_lease_and_fires_no_tick_twice() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
            let queue = broker.queue("held");
            queue.push(&1).await.unwrap();
            let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
            let first = broker.schedule(every(&broker, HOUR)).await.unwrap().next;
            // Forwards by an hour, back by a day, over that day again, and on.
            let again = (0..=24).map(|hours| first + HOUR - DAY + hours * HOUR + MINUTE / 2);
            let (mut wall, mut fired) = (Wall::of(&broker), Vec::new());
            for now in [first, first + HOUR]
                .into_iter()
                .chain(again)
                .chain([first + 2 * HOUR])
            {
                wall.set(now);
                fired.extend(ticks(&broker).await);
            }
            assert_eq!(fired, [first, first + HOUR, first + 2 * HOUR]);
            assert!(queue.take(NOW).await.unwrap().is_none(), "the lease holds");
            assert_eq!(lease.ack().await.unwrap(), brigade::Settled::Accepted(None));
        },
    );
}

/// Zone, expression, beginning, ticks.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

/// Clocks go forwards and back in both hemispheres, by an hour and by half of one, at two and at
/// midnight; a zone crosses the date line.
const MATRIX: [Case; 19] = [
    (
        "America/New_York",
        "30 2 * * *",
        "2026-03-07T00:00:00Z",
        &["03-07T07:30", "03-08T07:00", "03-09T06:30"],
    ),
    (
        "America/New_York",
        "30 1 * * *",
        "2026-10-31T00:00:00Z",
        &["10-31T05:30", "11-01T05:30", "11-02T06:30"],
    ),
    (
        "America/New_York",
        "*/30 * * * *",
        "2026-03-08T06:00:00Z",
        &["03-08T06:30", "03-08T07:00", "03-08T07:30"],
    ),
    (
        "America/New_York",
        "*/30 * * * *",
        "2026-11-01T05:00:00Z",
        &["11-01T05:30", "11-01T06:00", "11-01T06:30", "11-01T07:00"],
    ),
    (
        "America/New_York",
        "0 * * * *",
        "2026-03-08T05:30:00Z",
        &["03-08T06:00", "03-08T07:00", "03-08T08:00"],
    ),
    (
        "America/New_York",
        "0 * * * *",
        "2026-11-01T04:30:00Z",
        &["11-01T05:00", "11-01T06:00", "11-01T07:00"],
    ),
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-03-28T00:00:00Z",
        &["03-28T01:30", "03-29T01:00", "03-30T00:30"],
    ),
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-10-24T00:00:00Z",
        &["10-24T00:30", "10-25T00:30", "10-26T01:30"],
    ),
    (
        "Europe/Berlin",
        "0 3 * * *",
        "2026-03-28T00:00:00Z",
        &["03-28T02:00", "03-29T01:00", "03-30T01:00"],
    ),
    (
        "Australia/Sydney",
        "30 2 * * *",
        "2026-10-02T16:00:00Z",
        &["10-02T16:30", "10-03T16:00", "10-04T15:30"],
    ),
    (
        "Australia/Sydney",
        "30 2 * * *",
        "2026-04-03T15:00:00Z",
        &["04-03T15:30", "04-04T15:30", "04-05T16:30"],
    ),
    (
        "Australia/Sydney",
        "0 * * * *",
        "2026-04-04T14:30:00Z",
        &["04-04T15:00", "04-04T16:00", "04-04T17:00"],
    ),
    (
        "Australia/Lord_Howe",
        "15 2 * * *",
        "2026-10-02T15:00:00Z",
        &["10-02T15:45", "10-03T15:30", "10-04T15:15"],
    ),
    (
        "America/Santiago",
        "@daily",
        "2026-09-05T03:30:00Z",
        &["09-05T04:00", "09-06T04:00", "09-07T03:00"],
    ),
    (
        "Pacific/Apia",
        "0 12 * * *",
        "2011-12-28T00:00:00Z",
        &["12-28T22:00", "12-29T22:00", "12-30T22:00"],
    ),
    (
        "Pacific/Apia",
        "30 23 * * *",
        "2011-12-29T00:00:00Z",
        &["12-29T09:30", "12-30T09:30", "12-31T09:30"],
    ),
    (
        "Pacific/Apia",
        "0 0 * * *",
        "2011-12-29T00:00:00Z",
        &["12-29T10:00", "12-30T10:00", "12-31T10:00"],
    ),
    (
        "Pacific/Apia",
        "0 * * * *",
        "2011-12-30T08:30:00Z",
        &["12-30T09:00", "12-30T10:00", "12-30T11:00"],
    ),
    (
        "Pacific/Apia",
        "0 12 30 * *",
        "2011-12-01T00:00:00Z",
        &["01-29T22:00"],
    ),
];

#[test]
fn h49_ticks_at_the_changes_of_summer_time_and_at_a_lost_day() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, .. }| async move {
            let mut wall = Wall::of(&broker);
            for (zone, expression, from, expected) in MATRIX {
                wall.set(time(from));
                let mut at = broker
                    .schedule(cron(&broker, expression).zone(zone))
                    .await
                    .unwrap()
                    .next;
                let mut fired = Vec::new();
                for _ in expected {
                    wall.set(at - MINUTE);
                    assert!(
                        ticks(&broker).await.is_empty(),
                        "{zone} {expression}: before {}",
                        text(at)
                    );
                    wall.set(at);
                    fired.extend(ticks(&broker).await.into_iter().map(text));
                    at = next(&broker).await;
                }
                let expected: Vec<String> =
                    expected.iter().map(|tick| format!("{tick}:00Z")).collect();
                let without_year: Vec<&str> = fired.iter().map(|tick| &tick[5..]).collect();
                assert_eq!(without_year, expected, "{zone} {expression}");
                broker.unschedule("s").await.unwrap();
            }
        },
    );
}

#[test]
fn h49_two_schedulers_fire_each_tick_once() {
    on_brokers_that(
        |can| can.schedules,
        |Subject { broker, url, .. }| async move {
            if !broker.capabilities().durable {
                return;
            }
            let others = [
                Broker::connect(&url).await.unwrap(),
                Broker::connect(&url).await.unwrap(),
            ];
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
        },
    );
}

#[test]
fn a_schedule_that_moves_to_another_queue_keeps_its_due_tick() {
    on_brokers_that(
        |can| can.schedules && can.clock,
        async |Subject { broker, .. }| {
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
        },
    );
}

#[test]
fn a_schedule_that_cannot_be_fired_holds_up_no_hand_out() {
    // Its job's unique key stands for another: nothing is pushed. What each broker refuses of itself is
    // among its own tests.
    on_brokers_that(
        |can| can.schedules && can.clock && can.unique,
        async |Subject { broker, .. }| {
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
        },
    );
}

#[test]
fn the_schedules_of_a_program_are_set_at_once_and_what_it_does_not_name_any_more_goes() {
    on_brokers_that(
        |can| can.schedules,
        |subject| async move {
            let broker = &subject.broker;
            let of = |name: &str, expression: &str| {
                Schedule::cron(name, expression, job(broker)).unwrap()
            };
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
            // What cannot be meant changes nothing.
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
            assert_eq!(broker.schedules().await.unwrap().len(), 5);
            assert_eq!(
                broker.set_schedules("shop", []).await.unwrap().removed,
                ["alone", "b", "c", "d"]
            );
        },
    );
}
