//! A pool that is used from outside of the runtime it lives on.

#![expect(
    clippy::disallowed_methods,
    reason = "blocks a thread, as these programs do"
)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use brigade::{CallError, ErrorKind, Pool};
use tokio::runtime::Runtime;

use crate::probe::{gone, pids};
use crate::tasks::*;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The simplest of executors, without timers or anything of tokio's.
fn block_on<F: Future>(future: F) -> F::Output {
    let (mut future, waker) = (
        pin!(future),
        Waker::from(Arc::new(Unpark(std::thread::current()))),
    );
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(60)),
        }
    }
}

fn undriven() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_pool_serves_any_executor() {
    let runtime = Runtime::new().unwrap();
    let pool = runtime
        .block_on(Pool::builder().workers(1).start())
        .unwrap();
    assert_eq!(block_on(pool.call(add(1, 2))).unwrap(), 3);
    let timed_out = block_on(pool.call(spin().timeout(Duration::from_millis(100)))).unwrap_err();
    assert!(matches!(timed_out, CallError::TimedOut(_)), "{timed_out}");
    block_on(pool.ready(1)).unwrap();
    block_on(pool.recycle()).unwrap();
    let handle = pool.call(spin());
    assert!(block_on(handle.cancel("enough")).is_some());
    drop(handle);
    assert!(block_on(pool.shutdown()).drained);
    // On a runtime that has no timers.
    let bare = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let pool = runtime
        .block_on(Pool::builder().workers(1).start())
        .unwrap();
    assert_eq!(bare.block_on(pool.call(add(1, 2))).unwrap(), 3);
    assert!(bare.block_on(pool.shutdown()).drained);
}

#[test]
fn calls_of_a_pool_whose_runtime_nobody_drives_end_and_say_so() {
    let (runtime, idle) = (Runtime::new().unwrap(), undriven());
    let pool = idle.block_on(Pool::builder().workers(1).start()).unwrap();
    let pid = pids(&pool)[0];
    let short = add(1, 2)
        .timeout(Duration::from_millis(100))
        .queue_timeout(Duration::from_millis(100));
    for error in [
        block_on(pool.call(short)).unwrap_err(),
        runtime
            .block_on(async { pool.call(add(1, 2)).await })
            .unwrap_err(),
    ] {
        let CallError::Rejected(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.kind(), ErrorKind::NoRuntime);
        assert!(error.to_string().contains("block_on"), "{error}");
    }
    let end = block_on(pool.shutdown());
    assert_eq!((end.drained, end.left.len()), (false, 0), "{end:?}");
    assert_eq!(
        block_on(pool.call(add(1, 2))).unwrap_err().rejected(),
        Some(ErrorKind::NoRuntime)
    );
    drop(idle);
    runtime.block_on(gone(pid));
}

#[test]
fn a_pool_that_is_driven_only_now_and_then_works() {
    let idle = undriven();
    let pool = idle
        .block_on(
            Pool::builder()
                .workers(1)
                .check_interval(Duration::from_millis(20))
                .start(),
        )
        .unwrap();
    let pid = pids(&pool)[0];
    for number in 0..3 {
        assert_eq!(
            idle.block_on(pool.call(add(number, 1))).unwrap(),
            number + 1
        );
        // Longer than a check interval, in which no worker could have been answered.
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(pids(&pool), [pid], "its worker is no worse for that");
    idle.block_on(pool.shutdown());
}

#[test]
fn a_pool_whose_runtime_has_ended_says_so() {
    for workers in [0..=1, 1..=1] {
        let first = undriven();
        let pool = first
            .block_on(Pool::builder().workers(workers).start())
            .unwrap();
        drop(first);
        let second = undriven();
        let error = second.block_on(pool.call(add(1, 2))).unwrap_err();
        let CallError::Rejected(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.kind(), ErrorKind::NoRuntime);
        assert!(
            error.to_string().contains("runtime has ended")
                && error.to_string().contains("#[tokio::test]"),
            "{error}"
        );
        assert_eq!(
            second.block_on(pool.ready(1)).unwrap_err().kind(),
            ErrorKind::NoRuntime
        );
        second.block_on(pool.shutdown());
    }
}
