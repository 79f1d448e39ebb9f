//! The report of an attempt that ended by itself: how it ended and what it cost.

use std::time::Duration;

use brigade::{AttemptOutcome, CallError, Cost, Event, Pool, task};
use rustix::time::{ClockId, clock_gettime};

use crate::gate::Gate;
use crate::probe::{event, pool_of, soon};
use crate::tasks::*;

/// Far more than the pool uses of a worker besides its tasks.
const BURNT: Duration = Duration::from_millis(30);

fn burn() {
    let used = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap(),
        )
    };
    let before = used();
    while used() - before < BURNT {
        std::hint::spin_loop();
    }
}

#[task]
fn burns(fails: bool) -> Result<u32, String> {
    burn();
    if fails {
        Err("burnt".to_owned())
    } else {
        Ok(std::process::id())
    }
}

#[task]
async fn burns_async() -> u32 {
    burn();
    tokio::task::yield_now().await;
    std::process::id()
}

/// Most of its work is done by another thread.
#[task]
fn burns_elsewhere() {
    std::thread::scope(|scope| {
        scope.spawn(burn);
    });
}

#[tokio::test]
async fn a_call_that_returned_or_failed_has_a_report_with_its_cost() {
    soon(async {
        let pool = pool_of(1).await;
        let mut call = pool.call(burns(false));
        assert!(call.report().is_none(), "it has not ended");
        let pid = (&mut call).await.unwrap();
        let report = call.report().unwrap();
        assert_eq!(
            (report.ended.clone(), report.exit, report.step),
            (AttemptOutcome::Returned, None, None)
        );
        assert_eq!(
            (report.task.as_str(), report.pid, report.worker),
            ("burns", pid, 1)
        );
        assert_eq!((report.attempt, Some(report.call)), (1, call.id()));
        assert!(report.cost.cpu >= Some(BURNT), "{report}");
        assert!(report.cost.wall >= BURNT, "{report}");
        assert!(report.cost.memory_peak > Some(1 << 20), "{report}");
        assert!(report.to_string().contains(", cpu "), "{report}");

        let mut call = pool.call(burns(true));
        (&mut call).await.unwrap_err();
        let report = call.report().unwrap();
        assert_eq!(report.ended, AttemptOutcome::Failed);
        assert!(report.cost.cpu >= Some(BURNT), "{report}");

        let mut call = pool.call(burns_async());
        (&mut call).await.unwrap();
        let report = call.report().unwrap();
        assert!(report.cost.cpu >= Some(BURNT), "{report}");
        let mut call = pool.call(burns_elsewhere());
        (&mut call).await.unwrap();
        let report = call.report().unwrap();
        assert!(
            report.cost.cpu >= Some(BURNT),
            "all threads of the worker count: {report}"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn where_workers_are_shared_the_cpu_time_is_that_of_the_attempt_s_thread() {
    soon(async {
        let pool = Pool::builder().workers(1).slots(8).start().await.unwrap();
        let mut call = pool.call(burns(false));
        (&mut call).await.unwrap();
        let report = call.report().unwrap();
        assert!(report.cost.cpu >= Some(BURNT), "{report}");
        let mut call = pool.call(burns_async());
        (&mut call).await.unwrap();
        let report = call.report().unwrap();
        assert!(report.cost.wall >= BURNT, "{report}");
        assert_eq!(report.cost.cpu, None, "it shared its thread: {report}");
        pool.shutdown().await;
    })
    .await;
}

/// Whatever else the machine does, one of so many takes its usual time.
#[tokio::test]
async fn the_cost_of_a_short_attempt_is_its_time_alone() {
    soon(async {
        let pool = pool_of(1).await;
        for _ in 0..1000 {
            let mut call = pool.call(add(3, 4));
            (&mut call).await.unwrap();
            let report = call.report().unwrap();
            assert_eq!(report.ended, AttemptOutcome::Returned);
            if report.cost.cpu.is_none() {
                assert_eq!(report.cost.memory_peak, None);
                assert!(report.cost.wall <= Cost::MEASURED_FROM, "{report}");
                return pool.shutdown().await;
            }
        }
        panic!("a thousand additions took a millisecond each");
    })
    .await;
}

#[tokio::test]
async fn the_report_of_an_error_stays_with_the_handle_and_a_call_that_never_ran_has_none() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        let mut call = pool.call(panic_with("oops".to_owned()));
        let CallError::Panicked(own) = (&mut call).await.unwrap_err() else {
            panic!("it panicked")
        };
        let report = call.report().unwrap();
        assert_eq!((report.ended, report.pid), (own.ended, own.pid));

        let mut refused = pool.call(brigade::Call::<u32>::json("no such task", &[1]));
        (&mut refused).await.unwrap_err();
        assert!(refused.report().is_none());

        let held = pool.call(hold(gate.path(), 1));
        let mut waits = pool.call(add(1, 2));
        waits.cancel("not needed").await;
        (&mut waits).await.unwrap_err();
        assert!(waits.report().is_none());
        drop(gate);
        held.await.ok();
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn the_event_of_a_call_s_end_has_the_cost_of_its_last_attempt() {
    soon(async {
        let pool = pool_of(1).await;
        let mut events = pool.events();
        pool.call(burns(false)).await.unwrap();
        let cost = event(&mut events, |event| match event {
            Event::CallEnded { cost, .. } => Some(cost),
            _ => None,
        })
        .await;
        assert!(cost.unwrap().cpu >= Some(BURNT), "{cost:?}");
        pool.shutdown().await;
    })
    .await;
}
