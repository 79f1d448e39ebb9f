//! The trace of the attempt whose code runs on this thread.
//!
//! What a task calls or pushes belongs to its own trace, also where no OpenTelemetry is there to
//! say so. Whatever runs a task's code sets the trace around it: around a call, and around each
//! poll of a future. Threads and tasks that the code starts itself do not have it.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::TraceParent;

thread_local! {
    static AMBIENT: RefCell<Option<TraceParent>> = const { RefCell::new(None) };
}

/// The trace of the code that runs on this thread, until this is dropped.
#[must_use = "it holds until it is dropped"]
pub struct AmbientTrace {
    before: Option<TraceParent>,
    is_set: bool,
    /// It belongs to its thread.
    thread: PhantomData<*const ()>,
}

impl AmbientTrace {
    /// The code that follows belongs to this trace.
    pub fn enter(parent: Option<&TraceParent>) -> Self {
        // The usual case: nothing changes.
        let is_set = parent.is_some() || AMBIENT.with_borrow(Option::is_some);
        Self {
            before: is_set.then(|| AMBIENT.replace(parent.cloned())).flatten(),
            is_set,
            thread: PhantomData,
        }
    }

    /// The trace of the code that runs.
    pub fn current() -> Option<TraceParent> {
        AMBIENT.with_borrow(Option::clone)
    }
}

impl Drop for AmbientTrace {
    fn drop(&mut self) {
        if self.is_set {
            AMBIENT.set(self.before.take());
        }
    }
}

/// A future whose code belongs to a trace.
pub struct InTrace<F> {
    future: F,
    parent: Option<TraceParent>,
}

impl<F: Future + Unpin> InTrace<F> {
    /// `future` belongs to this trace.
    pub fn new(future: F, parent: Option<TraceParent>) -> Self {
        Self { future, parent }
    }
}

impl<F: Future + Unpin> Future for InTrace<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let _trace = AmbientTrace::enter(this.parent.as_ref());
        Pin::new(&mut this.future).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_holds_for_its_code_and_the_one_before_comes_back() {
        let [outer, inner] = ["1", "2"].map(|id| {
            let text = format!("00-{}-{}-01", id.repeat(32), id.repeat(16));
            text.parse::<TraceParent>().unwrap()
        });
        assert_eq!(AmbientTrace::current(), None);
        {
            let _outer = AmbientTrace::enter(Some(&outer));
            {
                let _inner = AmbientTrace::enter(Some(&inner));
                assert_eq!(AmbientTrace::current(), Some(inner));
                let _none = AmbientTrace::enter(None);
                assert_eq!(AmbientTrace::current(), None);
            }
            assert_eq!(AmbientTrace::current(), Some(outer));
        }
        assert_eq!(AmbientTrace::current(), None);
    }
}
