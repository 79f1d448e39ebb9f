//! Schedules and clocks: missed ticks, wall clocks that jump, changes of summer time.
//!
//! While no consumer asks, ticks are missed, and the schedule says what becomes of them: none, one,
//! or all of them up to a thousand. A wall clock that is set back or forward fires no tick twice
//! and moves no lease. The dates are those of real changes of summer time, and of a day that a time
//! zone left out.

use std::time::SystemTime;

use brigade::{Missed, Schedule};

use super::schedules::{
    DAY, HOUR, LONG, MINUTE, NOW, Wall, cron, every, job, next, text, ticks, time,
};
use crate::case::{Case, case};
use crate::log;
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(h48_a_scheduler_stopped_over_five_ticks_obeys_its_policy: schedules, clock),
    case!(h48_no_more_than_a_thousand_missed_ticks_are_made_up_for: schedules, clock),
    case!(h48_a_wall_clock_that_jumps_moves_no_lease_and_fires_no_tick_twice: schedules, clock),
    case!(h49_ticks_at_the_changes_of_summer_time_and_at_a_lost_day: schedules, clock),
];

async fn h48_a_scheduler_stopped_over_five_ticks_obeys_its_policy(Subject { broker, .. }: Subject) {
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
}

async fn h48_no_more_than_a_thousand_missed_ticks_are_made_up_for(Subject { broker, .. }: Subject) {
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
}

async fn h48_a_wall_clock_that_jumps_moves_no_lease_and_fires_no_tick_twice(
    Subject { broker, .. }: Subject,
) {
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
}

/// Zone, expression, beginning, ticks.
type SummerTime = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

/// Clocks go forwards and back in both hemispheres, by an hour and by half of one, at two and at
/// midnight; a zone crosses the date line.
const MATRIX: [SummerTime; 19] = [
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

async fn h49_ticks_at_the_changes_of_summer_time_and_at_a_lost_day(
    Subject { broker, .. }: Subject,
) {
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
        let expected: Vec<String> = expected.iter().map(|tick| format!("{tick}:00Z")).collect();
        let without_year: Vec<&str> = fired.iter().map(|tick| &tick[5..]).collect();
        assert_eq!(without_year, expected, "{zone} {expression}");
        broker.unschedule("s").await.unwrap();
    }
}
