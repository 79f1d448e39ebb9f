//! Ordinary use: calls, progress, values, names, large payloads.

use brigade::{Bytes, Call, ErrorKind, Pool, Task, WorkerState};
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::stage::{BOUND, fleet, host, is_there, millis, soon, url_of, worker};
use crate::tasks::*;

#[tokio::test]
async fn a_call_runs_on_a_host_that_joined_and_the_table_shows_it() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let host = host(&[&url_of(&fleet), "workers=2", "slots=3", "name=one"]);
        fleet.ready(1).await.unwrap();
        assert_eq!(fleet.call(add(3, 4)).await.unwrap(), 7);
        let shown = worker(&fleet, "one");
        assert_eq!(
            (shown.pid, shown.slots, shown.done, shown.running),
            (Some(host.pid()), 6, 1, 0)
        );
        assert_eq!(shown.state, WorkerState::Idle);
        assert!(shown.latency.is_none_or(|latency| latency < BOUND));
        let ran = fleet.call(pid()).await.unwrap();
        assert!(
            host.descendants().contains(&ran),
            "it ran in a child of the host's agent"
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn many_calls_go_to_several_hosts_and_to_workers_of_the_masters_own() {
    soon(async {
        let fleet = fleet().workers(1).start().await.unwrap();
        let url = url_of(&fleet);
        let hosts = [
            host(&[&url, "slots=4", "name=one"]),
            host(&[&url, "slots=4", "name=two"]),
        ];
        fleet.ready(3).await.unwrap();
        let calls = (0..300).map(|number| fleet.call(add(number, 1)));
        for (number, sum) in (0..).zip(join_all(calls).await) {
            assert_eq!(sum.unwrap(), number + 1);
        }
        let workers = fleet.workers();
        assert_eq!(workers.iter().map(|worker| worker.done).sum::<u64>(), 300);
        assert!(
            workers
                .iter()
                .all(|worker| worker.done > 0 && is_there(worker)),
            "{workers:?}"
        );
        drop(hosts);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn one_host_serves_two_masters() {
    soon(async {
        let fleets = [
            fleet().start().await.unwrap(),
            fleet().start().await.unwrap(),
        ];
        let _host = host(&[&url_of(&fleets[0]), &url_of(&fleets[1]), "workers=2"]);
        for fleet in &fleets {
            fleet.ready(1).await.unwrap();
        }
        let both = fleets
            .iter()
            .flat_map(|fleet| (0..50).map(|number| fleet.call(add(number, 2))));
        for (index, sum) in (0..).zip(join_all(both).await) {
            assert_eq!(sum.unwrap(), index % 50 + 2);
        }
        for fleet in fleets {
            fleet.shutdown().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("unix://{}/socket", directory.path().display());
        let fleet = Pool::builder()
            .workers(0)
            .listen(&url, crate::stage::credentials())
            .start()
            .await
            .unwrap();
        let _host = host(&[&url]);
        assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn progress_comes_in_order_and_a_task_knows_its_call_by_the_masters_number() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet)]);
        let handle = fleet.call(tell(20));
        let received: Vec<u32> = handle
            .progress()
            .map(|progress| progress.payload::<u32>().unwrap())
            .collect()
            .await;
        assert_eq!(received, (0..20).collect::<Vec<u32>>());
        assert_eq!(handle.await.unwrap(), 20);
        fleet.call(add(1, 1)).await.unwrap();
        let handle = fleet.call(numbers());
        let id = handle.id().unwrap();
        assert_eq!(handle.await.unwrap(), (id, 1));
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_task_of_which_the_master_has_only_the_name_and_one_that_no_host_has() {
    const ADD: Task<(i64, i64), i64> = Task::new("add");
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _host = host(&[&url_of(&fleet)]);
        assert_eq!(fleet.call(ADD.call((20, 22))).await.unwrap(), 42);
        // A host may still come that has it: it waits.
        let missing =
            fleet.call(Call::<i64>::json("no_host_has_it", &(1,)).queue_timeout(millis(300)));
        // A caller that waits for that one does not hold up others.
        assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        assert_eq!(missing.await.unwrap_err().outcome(), "timed out");
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn plain_functions_run_only_where_the_host_allows_them() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let _closed = host(&[&url_of(&fleet), "name=closed"]);
        fleet.ready(1).await.unwrap();
        let unlisted = fleet.run(|a: i64, b: i64| a * b, (6, 7)).await.unwrap_err();
        assert_eq!(
            unlisted.rejected(),
            Some(ErrorKind::Unsupported),
            "only what the program lists: {unlisted:?}"
        );
        let waiting = fleet.run(mul, (6, 7));
        assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        assert!(!waiting.is_finished());
        let _open = host(&[&url_of(&fleet), "name=open", "functions=yes"]);
        assert_eq!(waiting.await.unwrap(), 42);
        assert_eq!(worker(&fleet, "open").done, 1);
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn large_arguments_and_results_come_back_whole_while_small_calls_go_on() {
    soon(async {
        let fleet = fleet().payload_max(300 << 20).start().await.unwrap();
        let _host = host(&[&url_of(&fleet), "workers=2", "payload=300"]);
        fleet.ready(1).await.unwrap();
        for length in [0, 1, (16 << 10) - 1, 16 << 10, (64 << 10) + 1, 5 << 20] {
            let bytes = Bytes::from(
                (0..length)
                    .map(|index| u8::try_from(index % 251).unwrap())
                    .collect::<Vec<u8>>(),
            );
            assert!(
                fleet.call(echo(bytes.clone())).await.unwrap() == bytes,
                "{length} bytes"
            );
        }
        let much = brigade_testkit::count(64 << 20, 256 << 20);
        let mut large = Box::pin(async { fleet.call(zeros(much)).await.unwrap().len() });
        let mut small = 0;
        let length = loop {
            tokio::select! {
                length = &mut large => break length,
                sum = fleet.call(add(1, 2)) => small += i64::from(sum.unwrap() == 3),
            }
        };
        assert_eq!(length, much);
        assert!(small > 0);
        assert!(
            fleet.workers().iter().all(is_there),
            "the beat went on: {:?}",
            fleet.workers()
        );
        fleet.shutdown().await;
    })
    .await;
}
