//! What becomes of calls when a connection breaks, and when a host or its master is gone.

use std::net::SocketAddr;

use brigade::{AttemptOutcome, CallError, Event, Pool, WorkerState};
use brigade_testkit::program::Program;
use brigade_testkit::proxy::{BOTH, Cut, Faults, Proxy, Target, Way};
use rustix::process::Signal;

use crate::gate::Gate;
use crate::stage::{
    away, event, fleet, host, is_there, joined, left, millis, soon, until, url_of, worker,
};
use crate::tasks::*;

/// A host behind a proxy that is sound for now.
fn through_proxy(pool: &Pool, words: &[&str]) -> (Proxy, Program) {
    let proxy = Proxy::start(Target::of(&url_of(pool)).unwrap(), 1).unwrap();
    let url = url(proxy.address());
    let words: Vec<&str> = std::iter::once(url.as_str())
        .chain(words.iter().copied())
        .collect();
    (proxy, host(&words))
}

fn url(address: SocketAddr) -> String {
    format!("tcp://{address}")
}

#[tokio::test]
async fn what_runs_goes_on_while_the_connection_is_down_and_its_result_is_handed_over() {
    soon(async {
        let gate = Gate::new();
        let fleet = fleet().start().await.unwrap();
        let mut events = fleet.events();
        let (proxy, _host) = through_proxy(&fleet, &["workers=2", "name=far"]);
        assert_eq!(joined(&mut events).await, (1, false, 0));
        let (one, two) = (
            fleet.call(hold(gate.path(), 1)),
            fleet.call(hold(gate.path(), 2)),
        );
        let mut arrivals = gate.arrivals(2).await;
        arrivals.sort_by_key(|arrival| arrival.id);
        for (how, arrival) in [Cut::Reset, Cut::Finish].into_iter().zip(arrivals) {
            proxy.close_to_new(true);
            proxy.cut(how);
            away(&mut events).await;
            assert_eq!(worker(&fleet, "far").state, WorkerState::Away);
            assert_eq!(fleet.stats().running, if how == Cut::Reset { 2 } else { 1 });
            let waiting = fleet.call(add(1, 2));
            drop(arrival);
            proxy.close_to_new(false);
            assert_eq!(
                joined(&mut events).await,
                (1, true, 0),
                "it is the same one"
            );
            assert_eq!(waiting.await.unwrap(), 3);
        }
        assert_eq!((one.await.unwrap(), two.await.unwrap()), (1, 2));
        assert_eq!(worker(&fleet, "far").done, 4);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_stop_that_did_not_arrive_is_sent_again() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let mut events = fleet.events();
        let (proxy, _host) = through_proxy(&fleet, &["ladder=50"]);
        let handle = fleet.call(spin());
        handle.progress().next().await.unwrap();
        proxy.close_to_new(true);
        proxy.cut(Cut::Reset);
        away(&mut events).await;
        let receipt = handle.cancel("not wanted");
        proxy.close_to_new(false);
        assert_eq!(receipt.await.unwrap().step, brigade::Step::Terminated);
        assert!(matches!(handle.await.unwrap_err(), CallError::Cancelled(_)));
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn g43_half_open_connections_are_noticed_both_ways_and_by_byte_too() {
    soon(async {
        let fleet = fleet().heartbeat(millis(50)).start().await.unwrap();
        let mut events = fleet.events();
        let (proxy, _host) = through_proxy(&fleet, &["name=far"]);
        joined(&mut events).await;
        let trickle = Faults {
            bytes_per_second: Some(1),
            chunk_bytes: 1,
            ..Faults::default()
        };
        for fault in 0..3 {
            match fault {
                0 => proxy.freeze(BOTH),
                1 => proxy.freeze([Way::There]),
                _ => proxy.set(BOTH, &trickle),
            }
            let reason = away(&mut events).await;
            assert!(reason.contains("the peer sent nothing"), "{reason}");
            proxy.set(BOTH, &Faults::default());
            proxy.cut(Cut::Reset);
            proxy.thaw();
            until(&fleet, |workers| workers.iter().any(is_there)).await;
            assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        }
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn calls_whose_host_never_comes_back_are_lost_or_run_elsewhere() {
    soon(async {
        let gate = Gate::new();
        let fleet = fleet().lost_after(millis(500)).start().await.unwrap();
        let mut events = fleet.events();
        let victim = host(&[&url_of(&fleet), "workers=2", "name=victim"]);
        fleet.ready(1).await.unwrap();
        let (once, again) = (
            fleet.call(hold(gate.path(), 1).retries(3)),
            fleet.call(hold_or_again(gate.path(), 2)),
        );
        let first = gate.arrivals(2).await;
        assert!(victim.signal(Signal::KILL));
        away(&mut events).await;
        let _other = host(&[&url_of(&fleet), "name=other"]);
        let CallError::Lost(report) = once.await.unwrap_err() else {
            panic!("it is lost, whatever retries it has")
        };
        assert!(
            matches!(&report.ended, AttemptOutcome::HostLost(how) if how.contains("away")),
            "{report}"
        );
        assert_eq!(report.host.as_deref(), Some("victim"));
        let moved = gate.arrival().await;
        assert_eq!(moved.id, 2);
        drop((moved, first));
        assert_eq!(again.await.unwrap(), 2);
        let (lost, reason) = left(&mut events).await;
        assert_eq!(lost, 1, "{reason}");
        assert_eq!(
            fleet.workers().len(),
            1,
            "its seat is gone: {:?}",
            fleet.workers()
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_host_that_was_killed_takes_work_as_soon_as_it_is_started_again() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let url = url_of(&fleet);
        let first = host(&[&url]);
        fleet.ready(1).await.unwrap();
        assert!(first.signal(Signal::KILL));
        until(&fleet, |workers| !workers.iter().any(is_there)).await;
        let waiting = fleet.call(pid());
        let second = host(&[&url]);
        let ran = waiting.await.unwrap();
        assert!(second.descendants().contains(&ran));
        fleet.shutdown().await;
    })
    .await;
}

/// G44: the host is frozen for longer than it may be away, and what it ran finishes meanwhile.
#[tokio::test]
async fn g44_a_partition_heals_too_late_and_the_answer_from_before_it_is_refused() {
    soon(async {
        let gate = Gate::new();
        let fleet = fleet().lost_after(millis(300)).start().await.unwrap();
        let mut events = fleet.events();
        let (proxy, old) = through_proxy(&fleet, &["workers=2", "name=old", "ladder=50"]);
        joined(&mut events).await;
        let (done, endless) = (
            fleet.call(hold(gate.path(), 1)),
            fleet.call(hold_or_again(gate.path(), 2)),
        );
        let mut arrivals = gate.arrivals(2).await;
        arrivals.sort_by_key(|arrival| arrival.id);
        let still_there = arrivals.pop().unwrap();
        // The agent stands still and so does its link, while its children go on: one finishes.
        assert!(old.signal(Signal::STOP));
        proxy.freeze(BOTH);
        drop(arrivals);
        let (lost, _) = left(&mut events).await;
        assert_eq!(lost, 1);
        assert!(matches!(done.await.unwrap_err(), CallError::Lost(_)));
        let _new = host(&[&url_of(&fleet), "name=new"]);
        let moved = gate.arrival().await;
        assert_eq!(moved.id, 2);
        // It is back with a result and a call that runs, of which neither is wanted.
        proxy.cut(Cut::Reset);
        proxy.thaw();
        assert!(old.signal(Signal::CONT));
        let stale = event(&mut events, |event| match event {
            Event::HostJoined {
                host,
                resumed,
                stale,
                ..
            } if &*host == "old" => Some((resumed, stale)),
            _ => None,
        })
        .await;
        assert!(!stale.0, "its session is over");
        drop(moved);
        assert_eq!(
            endless.await.unwrap(),
            2,
            "from the one that it was given to"
        );
        // The old attempt is stopped, although the gate stays closed for it.
        until(&fleet, |workers| {
            workers.iter().filter(|worker| is_there(worker)).count() == 2
        })
        .await;
        still_there.gone().await;
        assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        assert_eq!(fleet.stats().done, 2);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_master_that_dies_is_waited_for_and_then_its_calls_are_stopped() {
    soon(async {
        let gate = Gate::new();
        let first = fleet().lost_after(millis(300)).start().await.unwrap();
        let (proxy, _host) = through_proxy(&first, &["name=far", "ladder=50"]);
        let handle = first.call(hold(gate.path(), 1));
        let held = gate.arrival().await;
        // As far as the host can tell.
        proxy.freeze(BOTH);
        proxy.cut(Cut::Reset);
        assert!(matches!(handle.await.unwrap_err(), CallError::Lost(_)));
        held.gone().await;
        // Another master at the same place is served at once.
        let second = fleet().start().await.unwrap();
        proxy.lead_to(Target::of(&url_of(&second)).unwrap());
        proxy.thaw();
        proxy.cut(Cut::Reset);
        assert_eq!(second.call(add(1, 2)).await.unwrap(), 3);
        for fleet in [first, second] {
            fleet.shutdown().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_pool_that_is_dropped_lets_its_hosts_go_and_a_shutdown_does_not_wait_for_one_that_is_away()
 {
    soon(async {
        let gate = Gate::new();
        let fleet = fleet().start().await.unwrap();
        let mut events = fleet.events();
        let (proxy, _host) = through_proxy(&fleet, &[]);
        let handle = fleet.call(hold(gate.path(), 1));
        let _held = gate.arrival().await;
        proxy.close_to_new(true);
        proxy.cut(Cut::Reset);
        away(&mut events).await;
        assert!(!fleet.kill().await.drained);
        assert!(matches!(handle.await.unwrap_err(), CallError::Lost(_)));

        let fleet = crate::stage::fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet)]);
        let handle = fleet.call(hold(gate.path(), 2));
        let held = gate.arrival().await;
        drop(fleet);
        assert!(handle.await.is_err());
        held.gone().await;
    })
    .await;
}
