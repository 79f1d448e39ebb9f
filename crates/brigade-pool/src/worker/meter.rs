//! The meter: what an attempt costs, measured by its worker.
//!
//! A look at the CPU time is a system call, which would be a large part of a short attempt. So it
//! is not taken at each start: a start uses the last look of its thread, if that is at most
//! [`LOOK_AGE_MAX`] old. What the worker used in between counts for the attempt, which is at most
//! that time. The end of an attempt is looked at only if it ran for [`Cost::MEASURED_FROM`] or
//! longer. A short attempt thus costs two reads of the clock, which are no system calls, and a busy
//! thread makes one call in each [`LOOK_AGE_MAX`].
//!
//! A worker with one slot measures its whole process, because all of it belongs to the attempt; one
//! with more slots the attempt's thread. An async task among others shares its thread with them, so
//! its CPU time is not known.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::attempt_report::Cost;
use crate::process::proc_fs::own_peak_bytes;

/// How old the look may be that the start of an attempt uses.
const LOOK_AGE_MAX: Duration = Duration::from_micros(100);

thread_local! {
    static LAST: Cell<Option<CpuLook>> = const { Cell::new(None) };
}

/// The CPU time at a moment, by one of the clocks.
#[derive(Clone, Copy)]
struct CpuLook {
    clock: ClockId,
    at: Instant,
    cpu: Duration,
}

/// Measures one attempt, from its start to its end.
pub(super) struct Meter {
    since: Instant,
    cpu_clock: ClockId,
    /// CPU time at the start; `None` if the end is on another thread.
    cpu: Option<Duration>,
}

impl Meter {
    /// An attempt begins on this thread. `is_shared`: the worker may run others at the same time.
    pub(super) fn begin(is_shared: bool) -> Self {
        let cpu_clock = if is_shared {
            ClockId::ThreadCPUTime
        } else {
            ClockId::ProcessCPUTime
        };
        let since = Instant::now();
        let last = LAST.get().filter(|last| {
            let age = since.saturating_duration_since(last.at);
            last.clock == cpu_clock && age <= LOOK_AGE_MAX
        });
        let last = last.unwrap_or_else(|| look(cpu_clock, since));
        Self {
            since,
            cpu_clock,
            cpu: Some(last.cpu),
        }
    }

    /// The same attempt, which ends on another thread.
    pub(super) fn without_cpu(self) -> Self {
        Self { cpu: None, ..self }
    }

    /// What the attempt cost that ends now, if it ran for long enough.
    pub(super) fn end(self) -> Option<Cost> {
        let now = Instant::now();
        let wall = now.saturating_duration_since(self.since);
        if wall < Cost::MEASURED_FROM {
            return None;
        }
        let cpu = self
            .cpu
            .map(|before| look(self.cpu_clock, now).cpu.saturating_sub(before));
        Some(Cost::of_wall(wall).with_process(cpu, own_peak_bytes()))
    }
}

fn look(cpu_clock: ClockId, at: Instant) -> CpuLook {
    let time = clock_gettime(cpu_clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    let look = CpuLook {
        clock: cpu_clock,
        at,
        cpu: Duration::new(seconds, nanos),
    };
    LAST.set(Some(look));
    look
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_computes_has_its_cpu_time_and_a_short_one_has_none() {
        for is_shared in [false, true] {
            assert_eq!(Meter::begin(is_shared).end(), None);
            let (meter, used) = (Meter::begin(is_shared), cpu_of_this_thread());
            while cpu_of_this_thread() - used < 2 * Cost::MEASURED_FROM {
                std::hint::spin_loop();
            }
            let cost = meter.end().unwrap();
            assert!(cost.cpu.unwrap() >= 2 * Cost::MEASURED_FROM, "{cost:?}");
            assert!(cost.memory_peak.unwrap() > 1 << 20, "{cost:?}");
            // The CPU time of this thread passes no faster than the time.
            assert!(
                !is_shared || cost.cpu.unwrap() <= cost.wall + LOOK_AGE_MAX,
                "{cost:?}"
            );
        }
    }

    #[test]
    fn a_look_at_the_clock_of_the_process_is_none_at_that_of_the_thread() {
        let ages = Duration::from_secs(3600 * 24 * 365);
        LAST.set(Some(CpuLook {
            clock: ClockId::ProcessCPUTime,
            // As recent as any look, however late this thread runs on.
            at: Instant::now() + Duration::from_secs(60),
            cpu: ages,
        }));
        assert!(Meter::begin(true).cpu.unwrap() < ages);
    }

    fn cpu_of_this_thread() -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap(),
        )
    }
}
