//! A mutex lock that survives a panic of another holder.
//!
//! Every guarded section in this crate either finishes its state change or panics on a broken
//! invariant before it begins one, so the state behind a poisoned lock is still whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
