//! Schedules as a user gives them to a broker and looks at them.

use super::Broker;
use crate::error::{Error, ErrorKind};
use crate::policy::{check_job, check_name};
use crate::schedule::{PAYLOAD_BYTES_MAX, Schedule, Scheduled};

impl Broker {
    /// Has a job pushed at each tick of a schedule, from the next one on, and returns when that is
    /// safe.
    ///
    /// There is no leader: whoever asks this broker for jobs, of whichever queue, fires what is
    /// due, each tick once. While nobody does, ticks are missed, see [`Schedule::missed`]. The jobs
    /// say which tick they are for: [`JobInfo::tick`](crate::JobInfo::tick),
    /// [`Context::tick`](crate::Context::tick).
    ///
    /// Programs may say this at each start. A schedule of this name that has the same ticks goes
    /// on: its next tick stays, even if it is due by now, so that no deploy fires or skips one; job
    /// and policy become the new ones. One that has others begins anew.
    ///
    /// It is in no group, see [`set_schedules`](Broker::set_schedules), which sets all schedules of
    /// a program.
    ///
    /// If the job has a unique key, a tick that comes while one with that key is not settled
    /// pushes nothing.
    ///
    /// ```
    /// # use brigade::{Broker, Missed, Schedule, task};
    /// # use std::time::Duration;
    /// # #[task] fn report(kind: String) {}
    /// # #[task] fn tidy_up() {}
    /// # async fn example(broker: Broker) -> Result<(), brigade::Error> {
    /// let nightly = Schedule::cron("nightly", "30 3 * * mon-fri", report("sales".to_owned()).retries(3))?;
    /// let scheduled = broker.schedule(nightly.zone("Europe/Berlin").missed(Missed::All)).await?;
    /// println!("first at {:?}", scheduled.next);
    /// broker.schedule(Schedule::every("tidy", Duration::from_secs(900), tidy_up().unique("tidy"))?).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `BadOption` for an expression, a zone or an interval that cannot be meant, and for an
    /// expression that no date matches: what is wrong, and where; `TooLarge` for a payload over 64
    /// KiB. Else as [`push`](Broker::push).
    pub async fn schedule(&self, schedule: Schedule) -> Result<Scheduled, Error> {
        self.check_schedule(&schedule)?;
        let next = self.store().schedule(&schedule).await?;
        Ok(schedule.into_scheduled(next))
    }

    pub(super) fn check_schedule(&self, schedule: &Schedule) -> Result<(), Error> {
        check_name("schedule", &schedule.name)?;
        check_job(
            &schedule.job,
            PAYLOAD_BYTES_MAX.min(self.capabilities().payload_bytes_max),
        )?;
        if schedule.job.options.at.is_some() {
            let text = format!(
                "schedule {:?} with a job that has a time of its own: a schedule's ticks are its \
                    times",
                schedule.name
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        Ok(())
    }

    /// Removes a schedule; jobs that it has pushed stay. `false` if there is none.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn unschedule(&self, name: &str) -> Result<bool, Error> {
        self.store().unschedule(name).await
    }

    /// Every schedule, by name.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn schedules(&self) -> Result<Vec<Scheduled>, Error> {
        self.store().schedules().await
    }
}
