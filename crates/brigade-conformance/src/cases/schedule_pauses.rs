//! Paused schedules: their ticks pass without a job.

use brigade::{Broker, Missed, Schedule, ScheduleChanges};

use super::schedules::{HOUR, MINUTE, Wall, cron, every, next, ticks};
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_paused_schedule_pushes_nothing_and_nothing_is_made_up_for: schedules, clock),
    case!(a_tick_that_is_due_at_a_pause_or_at_its_end_is_left_out: schedules, clock),
    case!(a_schedule_that_is_set_again_stays_paused: schedules),
];

async fn is_paused(broker: &Broker) -> bool {
    broker.schedules().await.unwrap()[0].paused
}

async fn a_paused_schedule_pushes_nothing_and_nothing_is_made_up_for(
    Subject { broker, .. }: Subject,
) {
    let mut wall = Wall::of(&broker);
    let schedule = every(&broker, HOUR).missed(Missed::All).grace(MINUTE);
    let first = broker.schedule(schedule).await.unwrap().next;
    assert!(broker.pause_schedule("s").await.unwrap() && is_paused(&broker).await);
    for hour in 0..3 {
        wall.set(first + hour * HOUR + MINUTE / 2);
        assert!(ticks(&broker).await.is_empty());
        assert_eq!(next(&broker).await, first + (hour + 1) * HOUR);
    }
    // Again changes nothing.
    assert!(broker.pause_schedule("s").await.unwrap() && is_paused(&broker).await);
    assert!(broker.resume_schedule("s").await.unwrap() && !is_paused(&broker).await);
    assert!(ticks(&broker).await.is_empty());
    wall.set(first + 3 * HOUR);
    assert_eq!(ticks(&broker).await, [first + 3 * HOUR]);
    wall.set(first + 4 * HOUR);
    assert!(broker.resume_schedule("s").await.unwrap());
    assert_eq!(
        ticks(&broker).await,
        [first + 4 * HOUR],
        "it was not paused"
    );
    assert!(!broker.pause_schedule("other").await.unwrap());
    assert!(!broker.resume_schedule("other").await.unwrap());
}

async fn a_tick_that_is_due_at_a_pause_or_at_its_end_is_left_out(Subject { broker, .. }: Subject) {
    let mut wall = Wall::of(&broker);
    let schedule = every(&broker, HOUR).missed(Missed::All);
    let first = broker.schedule(schedule).await.unwrap().next;
    // No consumer asks between these steps.
    wall.set(first + MINUTE / 2);
    assert!(broker.pause_schedule("s").await.unwrap());
    assert_eq!(next(&broker).await, first + HOUR);
    wall.set(first + 2 * HOUR + MINUTE / 2);
    assert!(broker.resume_schedule("s").await.unwrap());
    assert_eq!(next(&broker).await, first + 3 * HOUR);
    assert!(ticks(&broker).await.is_empty());
    wall.set(first + 3 * HOUR);
    assert_eq!(ticks(&broker).await, [first + 3 * HOUR]);
}

async fn a_schedule_that_is_set_again_stays_paused(Subject { broker, .. }: Subject) {
    let daily = || cron(&broker, "@daily");
    let changes = broker.set_schedules("shop", [daily()]).await.unwrap();
    assert!(!changes.added[0].paused);
    assert!(broker.pause_schedule("s").await.unwrap());
    let changes = broker.set_schedules("shop", [daily()]).await.unwrap();
    assert_eq!(changes, ScheduleChanges::default());
    assert!(is_paused(&broker).await);
    // With other ticks, another job and another queue too.
    let other = broker.queue("other").job(&2).unwrap();
    let other = Schedule::cron("s", "@hourly", other).unwrap();
    let changes = broker.set_schedules("shop", [other]).await.unwrap();
    assert!(changes.changed[0].paused && is_paused(&broker).await);
    assert!(broker.schedule(daily()).await.unwrap().paused);
    assert!(broker.unschedule("s").await.unwrap());
    assert!(!broker.schedule(daily()).await.unwrap().paused);
}
