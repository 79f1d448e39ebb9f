//! Workers with many slots: who shares, who must not, and what becomes of neighbours.

use std::time::Duration;

use brigade::{AttemptOutcome, CallError, CallHandle, Neighbours, Pool, Step};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{begun, pids, soon};
use crate::tasks::*;

/// One worker with four slots.
async fn shared() -> Pool {
    Pool::builder().workers(1).slots(4).start().await.unwrap()
}

const LONG: Duration = Duration::from_secs(80);

#[tokio::test]
async fn pi7_two_calls_share_a_worker_and_one_may_finish_while_the_other_blocks() {
    soon(async {
        let (pool, gate) = (shared().await, Gate::new());
        let blocks = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        let also_blocks = pool.call(hold_async(gate.path(), 2));
        let second = gate.arrival().await;
        assert_eq!((pool.workers()[0].running, pool.workers().len()), (2, 1));
        drop((arrival, second));
        assert_eq!((blocks.await.unwrap(), also_blocks.await.unwrap()), (1, 2));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l3_l11_the_worker_with_most_room_is_chosen_and_the_table_shows_it() {
    soon(async {
        let (pool, gate) = (
            Pool::builder().workers(3).slots(4).start().await.unwrap(),
            Gate::new(),
        );
        let held: Vec<_> = (0..6).map(|id| pool.call(hold(gate.path(), id))).collect();
        let arrivals = gate.arrivals(6).await;
        for worker in pool.workers() {
            assert_eq!(
                (worker.running, worker.slots, worker.state),
                (2, 4, brigade::WorkerState::Busy)
            );
            assert_eq!(worker.task.as_deref(), Some("hold"));
        }
        drop(arrivals);
        join_all(held).await;
        assert_eq!(
            pool.workers().iter().map(|worker| worker.done).sum::<u64>(),
            6
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi8_issue934_a_call_with_a_timeout_that_came_first_shares_with_nobody() {
    soon(async {
        let (pool, gate) = (shared().await, Gate::new());
        let timed = pool.call(hold(gate.path(), 1).timeout(LONG));
        let arrival = gate.arrival().await;
        let plain = pool.call(add(1, 2));
        assert_eq!((pool.stats().running, pool.stats().waiting), (1, 1));
        drop(arrival);
        assert_eq!((timed.await.unwrap(), plain.await.unwrap()), (1, 3));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi8_issue934_a_call_with_a_timeout_that_came_second_waits_for_a_worker_of_its_own() {
    soon(async {
        let (pool, gate) = (shared().await, Gate::new());
        let plain = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let timed = pool.call(hold(gate.path(), 2).timeout(LONG));
        assert_eq!((pool.stats().running, pool.stats().waiting), (1, 1));
        drop(arrival);
        let alone = gate.arrival().await;
        assert_eq!(
            (alone.id, plain.await.unwrap(), pool.stats().running),
            (2, 1, 1)
        );
        drop(alone);
        assert_eq!(timed.await.unwrap(), 2);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi8_issue934_a_call_with_a_timeout_that_is_picked_from_the_line_runs_alone() {
    soon(async {
        let (pool, gate) = (shared().await, Gate::new());
        let first = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let timed = pool.call(hold(gate.path(), 2).timeout(LONG));
        let behind: Vec<_> = (0..2).map(|n| pool.call(add(n, n))).collect();
        drop(arrival);
        let alone = gate.arrival().await;
        assert_eq!((alone.id, first.await.unwrap()), (2, 1));
        assert_eq!(
            (pool.stats().running, pool.stats().waiting),
            (1, 2),
            "those behind do not join it"
        );
        drop(alone);
        assert_eq!(timed.await.unwrap(), 2);
        assert!(join_all(behind).await.into_iter().all(|end| end.is_ok()));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi8_issue934_a_call_with_a_timeout_runs_alone_in_a_pool_that_drains() {
    soon(async {
        let (pool, gate) = (shared().await, Gate::new());
        let plain = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let timed = pool.call(hold(gate.path(), 2).timeout(LONG));
        let follow = async {
            crate::probe::until("it is closing", || pool.is_closed()).await;
            drop(arrival);
            let alone = gate.arrival().await;
            assert_eq!((alone.id, pool.stats().running), (2, 1));
        };
        let (end, ()) = tokio::join!(pool.shutdown(), follow);
        assert!(end.drained);
        assert_eq!((plain.await.unwrap(), timed.await.unwrap()), (1, 2));
    })
    .await;
}

/// A worker with a held call and one that spins.
async fn with_a_neighbour(
    neighbours: Neighbours,
    gate: &Gate,
) -> (Pool, CallHandle<u32>, CallHandle<()>) {
    let builder = Pool::builder()
        .workers(1)
        .slots(4)
        .neighbours(neighbours)
        .kill_after(Duration::from_millis(50), LONG);
    let pool = builder.start().await.unwrap();
    let held = pool.call(hold(gate.path(), 1));
    let spins = pool.call(spin());
    begun(&spins).await;
    (pool, held, spins)
}

#[tokio::test]
async fn pi8_a_cancelled_call_that_does_not_stop_is_not_forced_before_its_neighbours_have_finished()
{
    soon(async {
        let gate = Gate::new();
        let (pool, held, spins) = with_a_neighbour(Neighbours::Spare, &gate).await;
        let (arrival, before) = (gate.arrival().await, pids(&pool)[0]);
        let stopping = spins.cancel("stop");
        let retiring = || {
            pool.workers()
                .iter()
                .any(|worker| worker.state == brigade::WorkerState::Retiring)
        };
        crate::probe::until("it had its time to stop by itself", retiring).await;
        let elsewhere = pool.call(pid()).await.unwrap();
        assert_ne!(
            elsewhere, before,
            "the condemned worker gets nothing new, and there is another"
        );
        assert!(!held.is_finished());
        drop(arrival);
        assert_eq!(held.await.unwrap(), 1);
        assert_eq!(stopping.await.unwrap().step, Step::Terminated);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi8_neighbours_are_lost_when_the_builder_says_so() {
    soon(async {
        let gate = Gate::new();
        let (pool, held, spins) = with_a_neighbour(Neighbours::Lose, &gate).await;
        let _arrival = gate.arrival().await;
        assert_eq!(spins.cancel("stop").await.unwrap().step, Step::Terminated);
        let CallError::Lost(report) = held.await.unwrap_err() else {
            panic!("it was lost")
        };
        assert_eq!(report.ended, AttemptOutcome::Neighbour);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi8_neighbours_run_again_when_the_builder_says_so() {
    soon(async {
        let gate = Gate::new();
        let (pool, held, spins) = with_a_neighbour(Neighbours::RunAgain, &gate).await;
        let first = gate.arrival().await;
        assert_eq!(spins.cancel("stop").await.unwrap().step, Step::Terminated);
        drop(first);
        drop(gate.arrival().await);
        assert_eq!(held.await.unwrap(), 1);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi17_neighbours_of_a_crash_are_lost_and_the_culprit_is_known() {
    soon(async {
        let (pool, gate) = (shared().await, Gate::new());
        let held = [
            pool.call(hold(gate.path(), 1)),
            pool.call(hold_async(gate.path(), 2)),
        ];
        let _arrivals = gate.arrivals(2).await;
        let CallError::Crashed(report) = pool.call(abort()).await.unwrap_err() else {
            panic!("it crashed")
        };
        assert_eq!(report.exit, Some(brigade::Exit::Signal(libc::SIGABRT)));
        for end in join_all(held).await {
            assert!(matches!(end, Err(CallError::Lost(_))));
        }
        assert_eq!(
            (pool.stats().crashed, pool.call(add(1, 2)).await.unwrap()),
            (1, 3)
        );
        pool.shutdown().await;
    })
    .await;
}

/// Answers of one thread must not wait in the worker while another thread waits for the next call.
#[tokio::test]
async fn pi7_an_answer_never_stays_behind_in_the_worker() {
    soon(async {
        let (pool, gate) = (shared().await, Gate::new());
        // Attempts that block bring in the helper threads.
        let held: Vec<_> = (0..4).map(|id| pool.call(hold(gate.path(), id))).collect();
        drop(gate.arrivals(4).await);
        join_all(held).await;
        let caller = |caller: i64| {
            let pool = pool.clone();
            async move {
                for n in 0..1500 {
                    assert_eq!(pool.call(add(caller, n)).await.unwrap(), caller + n);
                }
            }
        };
        for round in 0..4 {
            join_all((0..4).map(|number| caller(round * 10 + number))).await;
            // Long enough for the worker's ticker to go to sleep.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        pool.shutdown().await;
    })
    .await;
}
