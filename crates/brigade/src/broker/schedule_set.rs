//! All schedules of a program at once: what a deploy does not name any more goes.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Broker;
use crate::error::{Error, ErrorKind};
use crate::policy::check_name;
use crate::schedule::{Schedule, Scheduled};

/// What [`Broker::set_schedules`] did; schedules that stayed as they were are in none of these.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ScheduleChanges {
    /// Schedules that were not there.
    pub added: Vec<Scheduled>,
    /// Schedules that had other ticks, another policy or another job.
    pub changed: Vec<Scheduled>,
    /// Names of schedules of the group that were not given, and are gone.
    pub removed: Vec<String>,
}

impl Broker {
    /// Makes these the only schedules of a group: adds or changes each as
    /// [`schedule`](Broker::schedule) does, and removes other schedules of the group; jobs that
    /// they have pushed stay. Schedules of other groups, and of none, stay; paused ones stay
    /// paused. A program passes all of
    /// its schedules at each start, with its own name as the group; a schedule that a deploy no
    /// longer names is removed.
    ///
    /// All schedules are checked first; an invalid one changes nothing. They are then set one after
    /// another, new ones first: if the broker becomes unreachable in between, call this again to
    /// complete it. A schedule of a given name that has no group joins this one.
    ///
    /// ```
    /// # use brigade::{Broker, Schedule, task};
    /// # #[task] fn report() {}
    /// # #[task] fn tidy_up() {}
    /// # async fn example(broker: Broker) -> Result<(), brigade::Error> {
    /// let nightly = Schedule::cron("nightly", "30 3 * * *", report())?;
    /// let hourly = Schedule::cron("tidy", "@hourly", tidy_up())?;
    /// let changes = broker.set_schedules("shop", [nightly, hourly]).await?;
    /// println!("{} new, {} gone", changes.added.len(), changes.removed.len());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`schedule`](Broker::schedule); `BadOption` if two have one name, or one has the name of
    /// a schedule of another group.
    pub async fn set_schedules(
        &self,
        group: &str,
        schedules: impl IntoIterator<Item = Schedule>,
    ) -> Result<ScheduleChanges, Error> {
        check_name("group of schedules", group)?;
        let schedules: Vec<Schedule> = schedules
            .into_iter()
            .map(|schedule| schedule.in_group(group))
            .collect();
        let there = self.schedules().await?;
        self.check_set(group, &schedules, &there)?;
        let mut changes = ScheduleChanges::default();
        for schedule in &schedules {
            let before = there.iter().find(|there| *there.name == *schedule.name);
            let is_same = before.is_some_and(|before| before.is_of(schedule));
            let scheduled = self.schedule(schedule.clone()).await?;
            match before {
                None => changes.added.push(scheduled),
                Some(_) if !is_same => changes.changed.push(scheduled),
                Some(_) => {}
            }
        }
        let given: HashSet<&str> = schedules.iter().map(|schedule| &*schedule.name).collect();
        for gone in there
            .into_iter()
            .filter(|there| there.group.as_deref() == Some(group) && !given.contains(&*there.name))
        {
            self.unschedule(&gone.name).await?;
            changes.removed.push(gone.name);
        }
        Ok(changes)
    }

    fn check_set(
        &self,
        group: &str,
        schedules: &[Schedule],
        there: &[Scheduled],
    ) -> Result<(), Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|now| i64::try_from(now.as_millis()).ok());
        let mut names = HashSet::new();
        for schedule in schedules {
            self.check_schedule(schedule)?;
            schedule.plan.after(now.unwrap_or(0))?;
            let name = &*schedule.name;
            if !names.insert(name) {
                return Err(Error::new(
                    ErrorKind::BadOption,
                    format!("set the schedules of {group:?}: two have the name {name:?}"),
                ));
            }
            let owner = there
                .iter()
                .find(|there| there.name == name)
                .and_then(|there| there.group.as_deref());
            if let Some(owner) = owner.filter(|owner| *owner != group) {
                let text = format!(
                    "set the schedules of {group:?}: the schedule {name:?} is of the group \
                        {owner:?}; give it another name"
                );
                return Err(Error::new(ErrorKind::BadOption, text));
            }
        }
        Ok(())
    }
}
