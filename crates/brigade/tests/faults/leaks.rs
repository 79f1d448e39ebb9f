//! What workers leave behind, in the parent and for each other: A11, A14.

use brigade::{CallError, Event, Pool};
use brigade_testkit::{count, facts, random::Random};

use crate::stage::{assert_childless, end, event, scenarios, until, within};
use crate::tasks::{Change, How, add, change, look, misbehave};

scenarios! {
    a11_cycles_of_start_and_death_leave_nothing => cycles,
    a11_a_runtime_that_is_dropped_leaves_no_zombie => dropped_runtime,
    a14_the_next_task_sees_no_change => changes,
}

async fn cycles() {
    let mut random = Random::from_env();
    let own = std::process::id();
    let cycles = count(400, 100_000);
    let warm = 40;
    let pool = Pool::builder().workers(2).start().await.unwrap();
    let mut baseline = (0, 0);
    for cycle in 0..cycles + warm {
        if cycle == warm {
            until("two workers", || pool.stats().idle == 2).await;
            baseline = (facts::open_descriptors(own), facts::resident_bytes(own));
        }
        let how = random
            .pick(&[How::Segv, How::UnderscoreExit(1), How::Exit(0), How::Abort])
            .unwrap()
            .clone();
        let outcome = within("the call", pool.call(misbehave(how))).await;
        assert!(matches!(outcome, Err(CallError::Crashed(_))), "{outcome:?}");
    }
    until("two workers", || pool.stats().idle == 2).await;
    until("no zombie", || {
        !facts::children(own).iter().any(facts::Process::is_zombie)
    })
    .await;
    until("descriptors as before", || {
        facts::open_descriptors(own) <= baseline.0
    })
    .await;
    let resident = facts::resident_bytes(own);
    println!(
        "{cycles} cycles: descriptors {}, resident {} -> {} KiB",
        baseline.0,
        baseline.1 >> 10,
        resident >> 10
    );
    // Slack for the allocator; a leak per cycle shows in the full run.
    assert!(resident < baseline.1 + (8 << 20), "{} KiB", resident >> 10);
    let open = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    assert!(
        !open
            .map(|link| link.display().to_string())
            .any(|link| link.contains("memfd")),
        "a memfd is left"
    );
    assert!(pool.stats().started >= (cycles + warm) as u64);
    end(pool).await;
}

/// A program may drop its runtime with a pool in it: tasks end in the middle, processes must not
/// stay.
async fn dropped_runtime() {
    for keep in [false, true] {
        let thread = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let kept = runtime.block_on(async {
                let pool = Pool::builder().workers(2).start().await.unwrap();
                assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
                keep.then_some(pool)
            });
            drop(runtime);
            drop(kept);
        };
        std::thread::Builder::new()
            .spawn(thread)
            .unwrap()
            .join()
            .unwrap();
        until("no child", || {
            facts::children(std::process::id()).is_empty()
        })
        .await;
    }
    assert_childless();
}

async fn changes() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let (clean, _) = within("a look", pool.call(look())).await.unwrap();
    println!("{clean}");
    let mut events = pool.events();
    for what in Change::ALL {
        let changed_in = within("the change", pool.call(change(what))).await.unwrap();
        let (seen, looked_in) = within("a look", pool.call(look())).await.unwrap();
        assert_eq!(seen, clean, "{what:?}");
        assert_ne!(
            changed_in, looked_in,
            "{what:?} makes the worker unfit for others"
        );
        let reason = event(&mut events, "it is retired", |event| match event {
            Event::WorkerRetiring { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        println!("{what:?}: {}", reason.await);
    }
    let (_, first) = within("a look", pool.call(look())).await.unwrap();
    let (_, second) = within("a look", pool.call(look())).await.unwrap();
    assert_eq!(
        first, second,
        "a task that changes nothing keeps its worker"
    );
    assert_eq!(pool.stats().crashed, 0);
    end(pool).await;
}
