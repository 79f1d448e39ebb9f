//! Hosts that leave in good order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brigade_testkit::program::Program;
use rustix::process::Signal;

use crate::gate::Gate;
use crate::stage::{BOUND, event, fleet, host, left, millis, soon, url_of};
use crate::tasks::*;

/// Waits until a host program has said that it left, and ended.
async fn ended(mut program: Program) {
    let status = tokio::task::block_in_place(|| program.wait(BOUND));
    assert!(
        status.expect("it ends").success() && program.log().contains("left\n"),
        "{}",
        program.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_what_runs_is_finished_and_nothing_new_comes() {
    soon(async {
        let gate = Gate::new();
        let fleet = fleet().start().await.unwrap();
        let mut events = fleet.events();
        let leaving = host(&[&url_of(&fleet), "workers=2", "name=leaving"]);
        let held = fleet.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        assert!(leaving.signal(Signal::TERM));
        event(&mut events, |event| {
            matches!(event, brigade::Event::WorkerRetiring { .. }).then_some(())
        })
        .await;
        let waiting = fleet.call(add(1, 2));
        let _staying = host(&[&url_of(&fleet)]);
        assert_eq!(waiting.await.unwrap(), 3, "by the other one");
        drop(arrival);
        assert_eq!(held.await.unwrap(), 1);
        assert_eq!(left(&mut events).await.0, 0);
        ended(leaving).await;
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_in_time_is_stopped_and_run_elsewhere_if_it_may() {
    soon(async {
        let gate = Gate::new();
        let fleet = fleet().start().await.unwrap();
        let leaving = host(&[&url_of(&fleet), "workers=2", "drain=100", "ladder=50"]);
        let (once, again) = (
            fleet.call(hold(gate.path(), 1)),
            fleet.call(hold_or_again(gate.path(), 2)),
        );
        let first = gate.arrivals(2).await;
        assert!(leaving.signal(Signal::TERM));
        assert_eq!(once.await.unwrap_err().outcome(), "lost");
        let _staying = host(&[&url_of(&fleet)]);
        let second = gate.arrival().await;
        assert_eq!(second.id, 2);
        drop((first, second));
        assert_eq!(again.await.unwrap(), 2);
        ended(leaving).await;
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_a_fleet_loses_and_fails_no_call() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let url = url_of(&fleet);
        let start = |name: &str| host(&[&url, "workers=2", "slots=4", &format!("name={name}")]);
        let mut hosts = vec![start("a"), start("b")];
        fleet.ready(2).await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..8_i64 {
            let (fleet, over) = (fleet.clone(), Arc::clone(&over));
            callers.spawn(async move {
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(fleet.call(add(caller, made)).await.unwrap(), caller + made);
                    made += 1;
                }
                made
            });
        }
        for round in 0..4 {
            let old = hosts.remove(0);
            assert!(old.signal(Signal::TERM));
            ended(old).await;
            hosts.push(start(&format!("new {round}")));
            fleet.ready(2).await.unwrap();
            tokio::time::sleep(millis(20)).await;
        }
        over.store(true, Ordering::Relaxed);
        let made: i64 = callers.join_all().await.into_iter().sum();
        let stats = fleet.stats();
        println!("{made} calls; {stats:?}");
        assert_eq!(
            (stats.done, stats.failed),
            (u64::try_from(made).unwrap(), 0)
        );
        fleet.shutdown().await;
    })
    .await;
}
