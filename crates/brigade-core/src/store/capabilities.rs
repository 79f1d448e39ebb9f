//! [`Capabilities`]: what a store can do, as data. Nothing in Brigade branches on a store's name.

use crate::error::{Error, ErrorKind};
use crate::job::Job;

/// What a broker can do. The conformance suite runs every case that a store's capabilities declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Jobs survive the end of every process.
    pub durable: bool,
    /// Jobs may be listed, counted, looked at, and changed by their ids.
    pub listing: bool,
    /// Delays and times.
    pub scheduling: bool,
    /// Schedules: cron and plain intervals.
    pub schedules: bool,
    /// Priorities.
    pub priorities: bool,
    /// Keys: strict order, one at a time.
    pub keys: bool,
    /// Unique marks.
    pub unique: bool,
    /// Limits and turns.
    pub limits: bool,
    /// Plain clients get jobs from a `Manager`.
    pub manager: bool,
    /// The consumers that are alive can be listed.
    pub consumers: bool,
    /// What queues and tasks did can be asked for, minute by minute.
    pub statistics: bool,
    /// Events of jobs can be read.
    pub events: bool,
    /// Flows: jobs that wait for others.
    pub flows: bool,
    /// Results may be waited for from anywhere.
    pub results: bool,
    /// Calls are answered by the broker itself, with what is known of their end, and with progress.
    /// Elsewhere a call is a job whose result is kept and waited for.
    pub answers: bool,
    /// A job that was passed goes to another worker at once, and comes back to the one that passed
    /// it only when no other takes it.
    pub passes: bool,
    /// Lowest and highest priority that a job may have; both 0 where there are no priorities.
    pub priority_range: (i32, i32),
    /// A batch is stored whole or not at all, whatever happens. Elsewhere, where an error is
    /// [uncertain](crate::Error::is_uncertain), a part of it may be there.
    pub whole_batches: bool,
    /// A job that is given back keeps its place. Elsewhere it goes to the end.
    pub keeps_places: bool,
    /// Queues may be paused everywhere.
    pub pauses: bool,
    /// Jobs may be cancelled by their ids, wherever they are.
    pub cancels: bool,
    /// Its time may be moved by [`Clock`](crate::Clock), for tests.
    pub clock: bool,
    /// Dead letters of a queue are jobs of a queue of their own, which is called like it with
    /// `.dead` behind.
    pub dead_queues: bool,
    /// Largest payload in bytes.
    pub payload_bytes_max: usize,
}

impl Capabilities {
    /// Nothing but pushing, leasing and settling. A store sets what it can do besides.
    pub fn minimal() -> Self {
        Self {
            durable: false,
            listing: false,
            scheduling: false,
            schedules: false,
            priorities: false,
            keys: false,
            unique: false,
            limits: false,
            manager: false,
            consumers: false,
            statistics: false,
            events: false,
            flows: false,
            results: false,
            answers: false,
            passes: false,
            priority_range: (0, 0),
            whole_batches: false,
            keeps_places: false,
            pauses: false,
            cancels: false,
            clock: false,
            dead_queues: false,
            payload_bytes_max: 16 << 20,
        }
    }

    /// Refuses a job that asks for what is not declared. `Broker` does so before it calls a store.
    ///
    /// # Errors
    ///
    /// `Unsupported` for an option of a capability that is missing, `BadOption` for a priority
    /// outside of [`priority_range`](Capabilities::priority_range).
    pub fn check(&self, job: &Job) -> Result<(), Error> {
        let options = &job.options;
        let is_later = options.delay.is_some() || options.at.is_some();
        let asked = [
            (options.key.is_some(), self.keys, "keys"),
            (options.unique.is_some(), self.unique, "unique"),
            (options.keep.is_some(), self.results, "results"),
            (job.link.is_some(), self.flows, "flows"),
            (options.priority() != 0, self.priorities, "priorities"),
            (is_later, self.scheduling, "scheduling"),
        ];
        let lacking = asked.iter().find(|(is_asked, can, _)| *is_asked && !can);
        if let Some((_, _, capability)) = lacking {
            let text = format!(
                "push to {:?}: this broker cannot do that (its capability {capability:?} is false)",
                job.queue
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let (lowest, highest) = self.priority_range;
        if (lowest..=highest).contains(&options.priority()) {
            return Ok(());
        }
        let text = format!(
            "push to {:?}: a priority is from {lowest} to {highest} here, and this one is {}",
            job.queue,
            options.priority()
        );
        Err(Error::new(ErrorKind::BadOption, text))
    }
}
