//! The settings of a pool of the simulation.

use std::time::Duration;

use super::super::super::config::{Config, Neighbours};
use super::super::super::queue::Order;
use super::super::random::Random;
use crate::sandbox::Sandbox;

/// Settings in which much can happen in a short time.
pub(super) fn settings(random: &mut Random) -> Config {
    let mut below = |bound: u64| usize::try_from(random.next() % bound).expect("a small number");
    let mut config = Config::default();
    // Of another program it is not known which tasks it has.
    config.program = "/bin/true".into();
    config.slots = if below(2) == 0 { 1 } else { 4 };
    config.workers_max = 1 + below(5);
    config.workers_min = below(3).min(config.workers_max);
    config.spares = if below(3) == 0 { 1 } else { 0 };
    config.queue_max = 1 + below(30);
    config.order = if below(3) == 0 {
        Order::Lifo
    } else {
        Order::Fifo
    };
    config.neighbours = [Neighbours::Spare, Neighbours::Lose, Neighbours::RunAgain][below(3)];
    config.recycle_calls = (below(3) == 0).then(|| 1 + below(20) as u64);
    config.recycle_age = (below(3) == 0).then(|| Duration::from_millis(500));
    config.recycle_memory = (below(3) == 0).then_some(1 << 20);
    config.idle_timeout = (below(2) == 0).then(|| Duration::from_millis(100));
    config.memory_budget = (config.slots == 1 && below(2) == 0).then_some(100 << 20);
    config.check_interval = Duration::from_millis(100);
    config.sandbox = (below(5) == 0).then(Sandbox::compute);
    #[cfg(feature = "remote")]
    if below(2) == 0 {
        let credentials = crate::remote::Credentials::tls();
        let listener = ("tls://127.0.0.1:0".to_owned(), credentials);
        config.hosts.listeners.push(listener);
        config.hosts.keep = Duration::from_millis(200);
        config.workers_max = below(4);
        config.workers_min = config.workers_min.min(config.workers_max);
    }
    config
}
