//! Which worker runs what: with real processes; `core::simulation` has the rest.

#![expect(clippy::disallowed_methods, reason = "attempts that take a moment")]

use std::collections::BTreeMap;
use std::time::Duration;

use brigade::{Sandbox, task};

use crate::place::{pool, scenarios};

scenarios! {
    a_process_runs_calls_of_one_sandbox_alone => one_sandbox,
    one_worker_is_replaced_for_each_change_of_the_sandbox => one_worker,
    calls_with_and_without_a_sandbox_all_get_their_turn => mixed,
}

#[task]
fn pid() -> u32 {
    std::process::id()
}

const CHOICES: [fn() -> Option<Sandbox>; 3] = [
    || None,
    || Some(Sandbox::no_network()),
    || Some(Sandbox::compute()),
];

/// How many filters of system calls this process has: each sandbox adds some.
fn filters() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp_filters:"));
    line.unwrap().trim().parse().unwrap()
}

#[task]
fn pid_and_filters() -> (u32, u32) {
    std::thread::sleep(Duration::from_millis(1));
    (std::process::id(), filters())
}

async fn one_sandbox() {
    let without = filters();
    for slots in [1, 4] {
        let pool = pool(3, |builder| builder.slots(slots)).await;
        let calls = (0..60).map(|number| {
            let choice = CHOICES[number % 3]();
            let call = pid_and_filters();
            let call = match choice.clone() {
                Some(sandbox) => call.sandbox(sandbox),
                None => call,
            };
            (choice, pool.call(call))
        });
        let calls: Vec<_> = calls.collect();
        let mut sandboxes = BTreeMap::new();
        for (choice, handle) in calls {
            let (pid, filters) = handle.await.unwrap();
            assert_eq!(filters > without, choice.is_some(), "{choice:?}: {filters}");
            if let Some(choice) = choice {
                let before = sandboxes.entry(pid).or_insert_with(|| choice.clone());
                assert_eq!(*before, choice, "{pid}");
            }
        }
        pool.shutdown().await;
    }
}

async fn one_worker() {
    let pool = pool(1, |builder| builder).await;
    let mut pids = Vec::new();
    for choice in [CHOICES[1], CHOICES[1], CHOICES[0], CHOICES[2], CHOICES[1]] {
        let call = match choice() {
            Some(sandbox) => pid().sandbox(sandbox),
            None => pid(),
        };
        pids.push(pool.call(call).await.unwrap());
    }
    assert_eq!(pids[0], pids[1], "{pids:?}");
    let changes = pids.windows(2).filter(|pair| pair[0] != pair[1]).count();
    // The worker without a sandbox takes one on.
    assert_eq!(changes, 2, "{pids:?}");
    pool.shutdown().await;
}

/// One kind of call never ends; the others get their turn all the same.
async fn mixed() {
    let pool = pool(2, |builder| builder).await;
    let stream = async {
        let keep_busy = || async {
            loop {
                pool.call(pid().sandbox(Sandbox::compute())).await.unwrap();
            }
        };
        tokio::join!(keep_busy(), keep_busy(), keep_busy(), keep_busy())
    };
    let others = async {
        for number in 0..10 {
            let call = match CHOICES[number % 2]() {
                Some(sandbox) => pid().sandbox(sandbox),
                None => pid(),
            };
            pool.call(call).await.unwrap();
        }
    };
    tokio::select! {
        _ = stream => unreachable!("it does not end"),
        () = others => {}
    }
    pool.shutdown().await;
}
