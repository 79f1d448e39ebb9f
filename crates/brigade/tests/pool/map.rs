//! Streams of calls, and the pool as a service.

use std::sync::atomic::{AtomicUsize, Ordering};

use brigade::{CallError, ErrorKind};
use futures_util::{StreamExt as _, stream};

use crate::gate::Gate;
use crate::probe::{pool_of, soon};
use crate::tasks::*;

#[tokio::test]
async fn pm6_results_of_a_stream_come_in_the_order_of_its_inputs() {
    soon(async {
        let pool = pool_of(2).await;
        let results: Vec<_> = pool
            .map(stream::iter(0..200), |n| add(n, 1))
            .ordered()
            .collect()
            .await;
        let sums: Vec<i64> = results.into_iter().map(Result::unwrap).collect();
        assert_eq!(sums, (1..=200).collect::<Vec<i64>>());
        let nothing: Vec<_> = pool
            .map(stream::iter(0..0), |n| add(n, 1))
            .ordered()
            .collect()
            .await;
        assert!(nothing.is_empty());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm6_unordered_results_come_as_they_end() {
    soon(async {
        let (pool, gate) = (pool_of(2).await, Gate::new());
        let path = gate.path();
        let inputs = stream::iter([true, false, false]);
        let call = |holds: bool| brigade::Call::of(either, &(holds.then(|| path.clone()),));
        let mut results = Box::pin(pool.map(inputs, call).unordered());
        let first = results.next().await.unwrap().unwrap();
        assert!(!first, "the one behind the gate is not waited for");
        drop(gate.arrival().await);
        let rest: Vec<bool> = results.map(Result::unwrap).collect().await;
        assert_eq!((rest.len(), rest.contains(&true)), (2, true));
        pool.shutdown().await;
    })
    .await;
}

fn either(gate: Option<String>) -> bool {
    if let Some(gate) = &gate {
        crate::gate::pass(gate, 1);
    }
    gate.is_some()
}

#[tokio::test]
async fn pi31_inputs_of_a_stream_are_taken_only_so_far_ahead() {
    soon(async {
        let pool = pool_of(1).await;
        let taken = AtomicUsize::new(0);
        let inputs = stream::iter(0..100).inspect(|_| {
            taken.fetch_add(1, Ordering::Relaxed);
        });
        let mut results = Box::pin(pool.map(inputs, |n| add(n, 1)).in_flight(3).ordered());
        for n in 1..=10 {
            assert_eq!(results.next().await.unwrap().unwrap(), n);
            assert!(taken.load(Ordering::Relaxed) <= usize::try_from(n).unwrap() + 3);
        }
        drop(results);
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm3_an_error_in_a_stream_is_one_item_of_it() {
    soon(async {
        let pool = pool_of(1).await;
        let results: Vec<_> = pool
            .map(stream::iter([false, true, false]), answer_or_fail)
            .ordered()
            .collect()
            .await;
        assert!(
            matches!(&results[..], [Ok(42), Err(CallError::Failed(_)), Ok(42)]),
            "{results:?}"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp13_a_pool_is_a_service() {
    soon(async {
        let pool = pool_of(1).await;
        let mut service = pool.clone();
        std::future::poll_fn(|cx| {
            tower_service::Service::<brigade::Call<i64>>::poll_ready(&mut service, cx)
        })
        .await
        .unwrap();
        assert_eq!(
            tower_service::Service::call(&mut service, add(1, 2))
                .await
                .unwrap(),
            3
        );
        pool.shutdown().await;
        let closed = std::future::poll_fn(|cx| {
            tower_service::Service::<brigade::Call<i64>>::poll_ready(&mut service, cx)
        })
        .await;
        assert_eq!(closed.unwrap_err().rejected(), Some(ErrorKind::Closed));
    })
    .await;
}
