//! The dispatcher under random events, compared with a model.
//!
//! A *world* is one pool with settings of its own. Each step makes up one event: a call, an answer,
//! the death of a worker, a stop or its next step, a host that joins, goes away, comes back or is
//! lost, a late frame, the passing of time. No process, no socket and no clock takes part, so a
//! second has tens of thousands of steps. The model (`model`) knows what must become of each call,
//! and the dispatcher's own assertions and [`Core::check_invariants`] look at the rest.
//!
//! A seed decides everything. One that fails is printed; `BRIGADE_SEED=<seed>` runs it alone.

mod conn;
mod events;
#[cfg(feature = "remote")]
mod hosts;
mod memory;
mod model;
mod settings;
mod world;

use std::hash::{BuildHasher as _, RandomState};

use super::Core;
use super::call_entry::Phase;
use world::World;

const WORLDS: u64 = 50;
/// Those of its shutdown come on top.
const STEPS: usize = 2_000;

/// Prints the seed of a world that fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this world fails again with BRIGADE_SEED={}", self.0);
        }
    }
}

#[test]
fn every_call_ends_once_whatever_happens_to_workers_and_hosts() {
    let seeds: Vec<u64> = match std::env::var("BRIGADE_SEED") {
        Ok(seed) => vec![seed.parse().expect("BRIGADE_SEED is a number")],
        Err(_) => {
            let first = RandomState::new().hash_one(0_u8);
            (0..WORLDS).map(|world| first.wrapping_add(world)).collect()
        }
    };
    let (mut calls, mut attempts, mut interrupted) = (0, 0, 0);
    for seed in seeds {
        let replay = Replay(seed);
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        if seed % 2 == 0 {
            world.run_dry();
        }
        world.shut_down();
        calls += world.model.ended;
        attempts += world.model.attempts;
        interrupted += world.core.counters.interrupted;
        drop(replay);
    }
    println!("{calls} calls ended after {attempts} attempts, {interrupted} interrupted");
    let is_one = std::env::var_os("BRIGADE_SEED").is_some();
    assert!(
        interrupted > 0 || is_one,
        "the memory budget does something"
    );
    assert!(calls > 100 && attempts > 100, "the worlds do something");
}

impl Core {
    /// What must be true of the dispatcher's tables between two steps.
    fn check_invariants(&self) {
        let mut running = 0;
        for slot in self.workers.iter().flatten() {
            assert_eq!(
                slot.rank.is_some(),
                self.free.iter().any(|rank| rank.worker == slot.id),
                "a worker has a rank while it is free"
            );
            for (index, call) in slot.running.iter().enumerate() {
                let phase = self.entry(*call).phase;
                assert!(
                    matches!(phase, Phase::Running { worker, index: at, .. }
                        if worker == slot.id && at == index),
                    "{phase:?} of an attempt at {index} of {:?}",
                    slot.id
                );
            }
            running += slot.running.len();
        }
        let count = |is_wanted: fn(&Phase) -> bool| {
            let phases = self.calls.iter().map(|(_, entry)| entry.phase);
            phases.filter(is_wanted).count()
        };
        let is_running = |phase: &Phase| matches!(phase, Phase::Running { .. });
        assert_eq!(count(is_running), running, "attempts");
        assert_eq!(
            count(|phase| matches!(phase, Phase::Queued(_))),
            self.queue.len(),
            "the queue"
        );
        assert_eq!(
            count(|phase| *phase == Phase::Aside),
            self.aside.len(),
            "calls set aside"
        );
        assert_eq!(
            count(|phase| *phase == Phase::Delayed),
            self.delayed,
            "delayed calls"
        );
        for (kept, sum) in self.budget_sums().into_iter().flatten() {
            assert_eq!(kept, sum, "memory that attempts reserve and use");
        }
        assert_eq!(count(|phase| *phase == Phase::New), 0, "calls nowhere");
        let places = self
            .calls
            .iter()
            .filter(|(_, entry)| entry.has_place)
            .count();
        assert_eq!(
            self.room.available_permits() + places - self.places_owed,
            self.config.queue_max,
            "places of the queue"
        );
    }

    /// Nothing may be left of calls and workers when a pool has ended.
    fn check_end(&self) {
        assert!(self.calls.is_empty(), "no call is left");
        assert!(self.queue.is_empty() && self.aside.is_empty(), "none waits");
        assert!(self.free.is_empty(), "no worker is free");
        assert!(
            self.workers.iter().all(Option::is_none),
            "no worker is left"
        );
        assert_eq!(self.places_owed, 0, "no place is owed");
        assert_eq!(
            self.budget_sums().unwrap_or_default(),
            [(0, 0); 2],
            "no memory is taken"
        );
        assert!(
            self.deadlines.are_of_pool(),
            "no deadline of a call or host"
        );
    }
}
