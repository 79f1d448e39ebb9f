//! Threads for work that may block: each does one piece at a time, and then waits for the next.
//!
//! To start and end a thread takes some twenty system calls, which is more than many a piece of
//! work takes. So a thread that has done its piece waits among the *idle* ones for a while, and the
//! next piece wakes the one that came last. Work that never ends keeps its thread, and the next
//! piece gets another one.
//!
//! The caller that takes a thread out of `idle` gives it work: a thread whose time is over ends
//! only if it was still there. There are as many threads as pieces run at the same time, which
//! callers bound.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use brigade_core::sync::lock;

use crate::shutdown::spawn_thread;

type BoxedWork = Box<dyn FnOnce() + Send>;

/// Threads of one name.
pub struct SpareThreads {
    name: &'static str,
    stack_bytes: usize,
    /// How long a thread waits for work before it ends.
    idle_for: Duration,
    /// The number of the next thread.
    numbers: AtomicU64,
    /// Threads that wait, by their numbers; the last came last.
    idle: Mutex<Vec<(u64, SyncSender<BoxedWork>)>>,
}

impl SpareThreads {
    pub const fn new(name: &'static str, stack_bytes: usize, idle_for: Duration) -> Self {
        Self {
            name,
            stack_bytes,
            idle_for,
            numbers: AtomicU64::new(0),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Begins this work on a thread that waits, or on a new one. Work that panics ends its thread.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn run(&'static self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut work: BoxedWork = Box::new(work);
        loop {
            let Some((_, thread)) = lock(&self.idle).pop() else {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                return spawn_thread(self.name, self.stack_bytes, move || {
                    self.serve(number, work)
                });
            };
            match thread.send(work) {
                Ok(()) => return Ok(()),
                Err(left) => work = left.0,
            }
        }
    }

    fn serve(&self, number: u64, mut work: BoxedWork) {
        loop {
            work();
            let (sender, next) = sync_channel(1);
            lock(&self.idle).push((number, sender));
            work = match next.recv_timeout(self.idle_for) {
                Ok(work) => work,
                Err(_) if self.leave(number) => return,
                // It was taken out a moment ago, so its work comes.
                Err(_) => match next.recv() {
                    Ok(work) => work,
                    Err(_) => return,
                },
            };
        }
    }

    /// Takes a thread out of those that wait; `false` if it is not there.
    fn leave(&self, number: u64) -> bool {
        let mut idle = lock(&self.idle);
        let before = idle.len();
        idle.retain(|(other, _)| *other != number);
        idle.len() < before
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_takes_the_next_work_and_one_that_is_held_up_holds_up_no_other() {
        static THREADS: SpareThreads =
            SpareThreads::new("spare-again", 128 << 10, Duration::from_secs(60));
        let (ended, ends) = sync_channel(1);
        let run = || {
            let ended = ended.clone();
            let work = move || ended.send(thread::current().id()).unwrap();
            THREADS.run(work).unwrap();
            ends.recv().unwrap()
        };
        let (release, released) = sync_channel(1);
        THREADS.run(move || released.recv().unwrap()).unwrap();
        let first = run();
        while lock(&THREADS.idle).is_empty() {
            thread::yield_now();
        }
        assert_eq!(run(), first);
        release.send(()).unwrap();
        while lock(&THREADS.idle).len() < 2 {
            thread::yield_now();
        }
        assert_eq!(THREADS.numbers.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn no_work_is_lost_while_threads_end() {
        static THREADS: SpareThreads = SpareThreads::new("spare-ends", 128 << 10, Duration::ZERO);
        let (ended, ends) = sync_channel(2_000);
        for number in 0..2_000 {
            let ended = ended.clone();
            THREADS.run(move || ended.send(number).unwrap()).unwrap();
            if number % 3 == 0 {
                thread::yield_now();
            }
        }
        drop(ended);
        let mut all: Vec<u32> = ends.iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..2_000).collect::<Vec<_>>());
    }
}
