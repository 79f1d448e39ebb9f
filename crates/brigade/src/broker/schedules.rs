//! Schedules as a user gives them to a broker and looks at them.

use super::Broker;
use crate::error::{Error, ErrorKind};
use crate::policy::{check_job, check_name};
use crate::schedule::{PAYLOAD_BYTES_MAX, Schedule, Scheduled};

impl Broker {
    /// Stores a schedule, which pushes a job at each of its ticks from the next one on.
    ///
    /// There is no scheduler process: any consumer that asks this broker for jobs, of any queue,
    /// fires the schedules that are due, each tick exactly once. If no consumer asks, ticks are
    /// missed, see [`Schedule::missed`]. The jobs know their tick:
    /// [`JobInfo::tick`](crate::JobInfo::tick), [`Context::tick`](crate::Context::tick).
    ///
    /// Programs may call this at each start. If a schedule of this name has the same ticks, its
    /// next tick stays, even if it is due by now, so that no deploy fires or skips one; job and
    /// policy are replaced. If its ticks differ, it starts at its first tick from now on. One that
    /// is [paused](Broker::pause_schedule) stays paused.
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
    /// `BadOption` for an invalid expression, zone or interval, and for an expression that matches
    /// no date, with the place of the fault; `TooLarge` for a payload over 64 KiB. Else as
    /// [`push`](Broker::push).
    pub async fn schedule(&self, schedule: Schedule) -> Result<Scheduled, Error> {
        self.check_schedule(&schedule)?;
        self.store().schedule(&schedule).await
    }

    pub(super) fn check_schedule(&self, schedule: &Schedule) -> Result<(), Error> {
        check_name("schedule", &schedule.name)?;
        let can = self.capabilities();
        check_job(&schedule.job, PAYLOAD_BYTES_MAX.min(can.payload_bytes_max))?;
        can.check(&schedule.job)?;
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
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn unschedule(&self, name: &str) -> Result<bool, Error> {
        self.store().unschedule(name).await
    }

    /// Pauses a schedule: ticks that come meanwhile push no job, and none is made up for
    /// afterwards, whatever [`Schedule::missed`] says. Jobs that it has pushed stay. `false` if
    /// there is none.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn pause_schedule(&self, name: &str) -> Result<bool, Error> {
        self.store().pause_schedule(name, true).await
    }

    /// Ends the pause of a schedule: it pushes a job at its first tick from now on. `false` if
    /// there is none.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn resume_schedule(&self, name: &str) -> Result<bool, Error> {
        self.store().pause_schedule(name, false).await
    }

    /// Every schedule, by name.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn schedules(&self) -> Result<Vec<Scheduled>, Error> {
        self.store().schedules().await
    }
}
