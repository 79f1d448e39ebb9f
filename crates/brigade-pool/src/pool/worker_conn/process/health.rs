//! Whether a worker process answers pings, and why not.
//!
//! A worker is judged by what it got to run, not by the clock: one that is stopped by a signal or a
//! debugger, or that gets no CPU, has not failed to answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::super::Health;
use crate::link::Channel;
use crate::process::proc_fs::{share_of, state_of, thread_named};
use crate::process::{Held, Process};
use crate::wire::kind;

/// The thread of a worker that answers pings.
const MONITOR: &str = "brigade-monitor";
/// CPU time in which a ping is answered many times over.
const TIME_TO_ANSWER: Duration = Duration::from_millis(200);

/// What is known of a worker's answers to pings.
#[derive(Default)]
pub(super) struct PingState {
    /// Looks since the ping that is not answered; 0 if there is none.
    looks: AtomicU32,
    /// The thread that answers pings, once it was looked for.
    monitor: OnceLock<Option<u32>>,
    /// CPU time in nanoseconds that this thread had when a ping was first found unanswered.
    silent_since: AtomicU64,
}

/// Why a worker has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SilenceCause {
    /// A signal keeps it from running, by its name.
    Stopped(String),
    /// A debugger has it: a person is looking at it.
    Traced,
    /// It is ready to run, or waits for memory or a disk, and got no CPU to speak of.
    Starved,
    /// None of these: it had its time.
    Unresponsive,
}

impl PingState {
    /// Notes the answer to a ping.
    pub(super) fn answered(&self) {
        self.looks.store(0, Ordering::Release);
        self.silent_since.store(0, Ordering::Relaxed);
    }

    fn is_answered(&self) -> bool {
        self.looks.load(Ordering::Acquire) == 0
    }

    /// Takes a look back: silence says nothing now.
    fn excuse(&self) {
        // An answer may have come since.
        let less = |looks: u32| (looks > 1).then(|| looks - 1);
        self.looks
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok();
    }

    /// Pings a worker that has answered the last ping, and looks why another one has not.
    pub(super) fn look(
        &self,
        process: &Process,
        shown: Option<u32>,
        control: &Channel,
        is_in_time: bool,
    ) -> Health {
        let misses = self.looks.fetch_add(1, Ordering::AcqRel);
        if misses == 0 {
            control.send(kind::PING, 0, &[]);
            return Health::default();
        }
        let cause = self.silence_cause(process, shown, control);
        let is_excused =
            !is_in_time || matches!(cause, SilenceCause::Starved | SilenceCause::Traced);
        if is_excused {
            self.excuse();
        }
        Health {
            grown_bytes: 0,
            misses: if is_excused { 0 } else { misses },
            stopped_by: match cause {
                SilenceCause::Stopped(by) => Some(by),
                SilenceCause::Traced => Some(Held::Traced.to_string()),
                SilenceCause::Starved | SilenceCause::Unresponsive => None,
            },
            used_bytes: 0,
        }
    }

    /// Why it has not answered a ping. To be asked again while it is silent.
    fn silence_cause(
        &self,
        process: &Process,
        shown: Option<u32>,
        control: &Channel,
    ) -> SilenceCause {
        match process.held() {
            Some(Held::Traced) => return SilenceCause::Traced,
            Some(held @ Held::Stopped(_)) => return SilenceCause::Stopped(held.to_string()),
            None => {}
        }
        let Some(shown) = shown else {
            return SilenceCause::Unresponsive;
        };
        let find = || thread_named(shown, MONITOR);
        let Some(monitor) = *self.monitor.get_or_init(find) else {
            return SilenceCause::Unresponsive;
        };
        let ran = share_of(shown, monitor).map_or(0, |share| {
            u64::try_from(share.ran.as_nanos()).unwrap_or(u64::MAX)
        });
        // What it had run when it was first found silent.
        let first = self
            .silent_since
            .compare_exchange(0, ran.max(1), Ordering::Relaxed, Ordering::Relaxed)
            .unwrap_or_else(|first| first);
        let had_time =
            first != 0 && Duration::from_nanos(ran.saturating_sub(first)) >= TIME_TO_ANSWER;
        match state_of(shown, monitor) {
            Some('R' | 'D') if !had_time => SilenceCause::Starved,
            // It has answered, and it is this process that did not get to read that. Asked after
            // the state, or the answer might come in between.
            _ if control.has_unread() || self.is_answered() => SilenceCause::Starved,
            _ => SilenceCause::Unresponsive,
        }
    }
}
