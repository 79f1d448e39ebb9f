//! What the proxy and its thread share: orders, and counts of what went through.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::faults::{Cut, Faults, Target};

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) orders: Mutex<Orders>,
    pub(super) heeded: Condvar,
    pub(super) accepted: AtomicU64,
    pub(super) open: AtomicUsize,
    pub(super) cut: AtomicU64,
    pub(super) garbled: AtomicU64,
    pub(super) bytes: [AtomicU64; 2],
    pub(super) held: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) faults: [Faults; 2],
    pub(super) frozen: [bool; 2],
    pub(super) held: Option<u64>,
    pub(super) closed: bool,
    pub(super) target: Option<Target>,
    pub(super) cut: Option<Cut>,
    pub(super) end: bool,
    /// How many orders were given, and carried out.
    pub(super) given: u64,
    pub(super) done: u64,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
