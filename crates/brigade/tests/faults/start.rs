//! Workers that cannot be started: A13.

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, io};

use brigade::{ErrorKind, Event, Pool};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::stage::{assert_childless, directory, end, event, file, millis, scenarios, within};
use crate::tasks::{How, add, misbehave, tell};

scenarios! {
    a13_no_descriptors_left => no_descriptors,
    a13_no_processes_left => no_processes,
    a13_no_memory_left => no_memory,
    a13_a_handshake_that_never_comes => no_handshake,
    a13_programs_that_are_no_workers => no_workers,
    a13_an_init_hook_that_fails_for_a_while => failing_hook,
}

/// From the moment when workers cannot be started until they can again.
async fn storm(pool: Pool, lift: impl AsyncFnOnce()) {
    let mut events = pool.events();
    let began = Instant::now();
    // By a call: to kill it from here would need a descriptor.
    assert!(
        within("the crash", pool.call(misbehave(How::Segv)))
            .await
            .is_err()
    );
    let reason = event(&mut events, "the pool is degraded", |event| match event {
        Event::Degraded { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    println!("degraded after {:.1?}: {}", began.elapsed(), reason.await);
    assert!(pool.stats().degraded.is_some());
    let error = within("a call", pool.call(add(1, 2))).await.unwrap_err();
    assert_eq!(error.rejected(), Some(ErrorKind::CannotStart), "{error}");

    // It goes on trying, slower and slower, and does not spin.
    let (cpu, since) = (cpu_time(), Instant::now());
    let mut failures = 0;
    while tokio::time::timeout_at((since + millis(500)).into(), events.next())
        .await
        .is_ok_and(|event| {
            failures += usize::from(matches!(event, Some(Event::WorkerStartFailed { .. })));
            event.is_some()
        })
    {}
    let spent = cpu_time() - cpu;
    println!("{failures} more failures in 500 ms, {spent:.1?} of CPU");
    assert!(failures <= 5 && spent < millis(250));

    lift().await;
    event(&mut events, "it recovers", |event| {
        matches!(event, Event::Recovered).then_some(())
    })
    .await;
    assert_eq!(pool.stats().degraded, None);
    assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    end(pool).await;
}

/// CPU time of this process; needs no descriptor.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

async fn limited(resource: Resource, limit: u64) {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let before = getrlimit(resource);
    setrlimit(
        resource,
        Rlimit {
            current: Some(limit),
            maximum: before.maximum,
        },
    )
    .unwrap();
    storm(pool, async || setrlimit(resource, before).unwrap()).await;
}

async fn no_descriptors() {
    // Not one more, whichever the dying worker gives back: the limit is on their numbers.
    limited(Resource::Nofile, 3).await;
}

async fn no_memory() {
    // Workers inherit the limit; less than the program itself needs.
    limited(Resource::As, 1 << 20).await;
}

/// A control group of version 1 that holds this process. It moves out and removes the group when
/// dropped.
struct Pids(PathBuf);

impl Pids {
    const ROOT: &str = "/sys/fs/cgroup/pids";

    fn enter() -> io::Result<Self> {
        let group = Self(PathBuf::from(format!(
            "{}/brigade-test-{}",
            Self::ROOT,
            std::process::id()
        )));
        fs::create_dir(&group.0)?;
        fs::write(group.0.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(group)
    }

    fn limit(&self, count: &str) {
        fs::write(self.0.join("pids.max"), count).unwrap();
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        fs::write(
            format!("{}/cgroup.procs", Self::ROOT),
            std::process::id().to_string(),
        )
        .ok();
        fs::remove_dir(&self.0).ok();
    }
}

/// The limit on processes does not bind root, and does not count for one process alone: hence a
/// control group.
async fn no_processes() {
    let group = match Pids::enter() {
        Ok(group) => group,
        Err(error) => {
            println!(
                "MISSING: a control group of version 1 for processes ({error}). Missing programs \
                    stand in for EAGAIN."
            );
            return no_workers().await;
        }
    };
    let pool = Pool::builder().workers(1).start().await.unwrap();
    within("a call", pool.call(add(1, 2))).await.unwrap();
    // Fewer than there are, even without the worker, which is to be killed, and its threads.
    group.limit("2");
    storm(pool, async || group.limit("max")).await;
}

async fn no_handshake() {
    let builder = Pool::builder()
        .workers(2)
        .program("/bin/sleep", ["1000"])
        .start_timeout(millis(100));
    let began = Instant::now();
    let error = within("the start", builder.start()).await.unwrap_err();
    println!("{error} after {:.1?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::CannotStart);
    assert!(
        error.to_string().contains("not ready within 100ms"),
        "{error}"
    );
    assert_childless();
}

async fn no_workers() {
    for (program, arguments, says) in [
        ("/bin/true", vec![], "ended before it was ready"),
        ("/bin/false", vec![], "exit code 1"),
        (
            "/bin/sh",
            vec!["-c", "echo what am I doing here >&2; exit 3"],
            "what am I doing here",
        ),
        (
            "/bin/sh",
            vec!["-c", "head -c 100 /dev/urandom >&0; sleep 5"],
            "",
        ),
        ("/nowhere/at/all", vec![], "file or directory"),
        ("/etc/passwd", vec![], "ermission denied"),
    ] {
        let builder = Pool::builder()
            .workers(1)
            .program(program, arguments)
            .start_timeout(Duration::from_secs(2));
        let error = within("the start", builder.start()).await.unwrap_err();
        println!("{program}: {error}");
        assert_eq!(error.kind(), ErrorKind::CannotStart, "{program}");
        assert!(error.to_string().contains(says), "{program}: {error}");
        assert_childless();
    }
}

fn fails_while(path: String) -> Result<(), std::io::Error> {
    if std::fs::exists(&path)? {
        Err(std::io::Error::other("the database is away"))
    } else {
        Ok(())
    }
}

async fn failing_hook() {
    let path = file("away");
    let pool = Pool::builder()
        .workers(1)
        .init(fails_while, &(path.clone(),))
        .start()
        .await
        .unwrap();
    tell(&path, "away");
    storm(pool, async || {
        std::fs::remove_file(directory().join("away")).unwrap()
    })
    .await;
}
