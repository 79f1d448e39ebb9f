//! What a worker process is like: environment, descriptors, title, CPU, niceness.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;

use brigade::Pool;

use crate::gate::Gate;
use crate::probe::{pids, pool_of, soon};
use crate::tasks::*;

#[tokio::test]
async fn wp3_wp52_pi36_a_worker_has_the_variables_that_were_listed_and_no_others() {
    soon(async {
        assert!(
            std::env::var_os("CARGO_MANIFEST_DIR").is_some(),
            "cargo gives tests variables that workers must not see"
        );
        let pool = Pool::builder()
            .workers(1)
            .env("GIVEN", "value")
            .inherit_env(["CARGO_PKG_NAME", "NOT_SET"])
            .start()
            .await
            .unwrap();
        let variables = pool.call(environment()).await.unwrap();
        assert_eq!(variables["GIVEN"], "value");
        assert_eq!(variables["CARGO_PKG_NAME"], "brigade");
        assert!(
            !variables.contains_key("CARGO_MANIFEST_DIR") && !variables.contains_key("NOT_SET"),
            "{variables:?}"
        );
        assert!(variables.contains_key("PATH"));
        pool.shutdown().await;

        let pool = Pool::builder()
            .workers(1)
            .clear_env()
            .env("ONLY", "this")
            .start()
            .await
            .unwrap();
        let variables = pool.call(environment()).await.unwrap();
        let others: Vec<_> = variables
            .keys()
            .filter(|name| !name.starts_with("BRIGADE_"))
            .collect();
        assert_eq!(others, ["ONLY"]);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp3_pi36_arguments_and_directory_reach_the_worker() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        let builder = Pool::builder()
            .workers(1)
            .program("/proc/self/exe", ["--one", "two words"])
            .directory(&real);
        let pool = builder.start().await.unwrap();
        let (arguments, inside) = pool.call(arguments_and_directory()).await.unwrap();
        assert_eq!(arguments, ["--one", "two words"]);
        assert_eq!(inside, real.to_str().unwrap());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn lb16_a_worker_inherits_no_descriptor() {
    soon(async {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A plain `dup` is open across `exec`, as what C libraries open often is.
        let inheritable = rustix::io::dup(&file).unwrap();
        let flags = rustix::io::fcntl_getfd(&inheritable).unwrap();
        assert!(!flags.contains(rustix::io::FdFlags::CLOEXEC) && inheritable.as_raw_fd() > 2);
        let pool = pool_of(1).await;
        let open = pool.call(open_files()).await.unwrap();
        assert!(
            !open
                .iter()
                .any(|path| path == file.path().to_str().unwrap()),
            "{open:?}"
        );
        assert!(
            open.iter().any(|path| path == "/dev/null"),
            "its standard input: {open:?}"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l6_the_title_of_a_worker_says_what_it_does() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        let title = || {
            let text = std::fs::read(format!("/proc/{}/cmdline", pids(&pool)[0])).unwrap();
            String::from_utf8_lossy(&text)
                .trim_end_matches(['\0', ' '])
                .to_owned()
        };
        assert_eq!(title(), "brigade: worker 1");
        let held = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        assert_eq!(title(), "brigade: worker 1 hold");
        drop(arrival);
        held.await.unwrap();
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l5_lb13_pinned_workers_keep_to_allowed_cpus_in_turn() {
    soon(async {
        let allowed = cpus_of_this_process();
        let (pool, gate) = (
            Pool::builder()
                .workers(2)
                .slots(2)
                .pin(true)
                .start()
                .await
                .unwrap(),
            Gate::new(),
        );
        let held = [
            pool.call(hold(gate.path(), 0)),
            pool.call(hold(gate.path(), 1)),
        ];
        let arrivals = gate.arrivals(2).await;
        let mut pinned = BTreeSet::new();
        for pid in pids(&pool) {
            let pid = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            let set = rustix::thread::sched_getaffinity(pid).unwrap();
            assert_eq!(set.count(), 1);
            pinned.extend((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)));
        }
        assert!(pinned.iter().all(|cpu| allowed.contains(cpu)));
        assert_eq!(pinned.len(), allowed.len().min(2));
        drop(arrivals);
        for handle in held {
            handle.await.unwrap();
        }
        pool.shutdown().await;

        let pool = pool_of(1).await;
        assert_eq!(pool.call(allowed_cpus()).await.unwrap(), allowed);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi41_niceness_is_added_to_our_own_and_capped() {
    soon(async {
        let own = rustix::process::getpriority_process(None).unwrap();
        let pool = Pool::builder().workers(1).nice(3).start().await.unwrap();
        assert_eq!(pool.call(niceness()).await.unwrap(), (own + 3).min(19));
        for inner in [0, 2, 19] {
            let (sum, outer, nested) = pool.call(nested(1, 2, inner)).await.unwrap();
            assert_eq!(
                (sum, outer, nested),
                (3, (own + 3).min(19), (own + 3 + inner).min(19))
            );
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp12_a_task_may_have_a_pool_of_its_own() {
    soon(async {
        let pool = pool_of(2).await;
        let (one, two) = tokio::join!(pool.call(nested(1, 2, 0)), pool.call(nested(3, 4, 0)));
        assert_eq!((one.unwrap().0, two.unwrap().0), (3, 7));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn lb17_two_pools_of_one_process_do_not_meet() {
    soon(async {
        let (one, two) = (pool_of(1).await, pool_of(1).await);
        let (first, second) = tokio::join!(one.call(pid()), two.call(pid()));
        assert_ne!(first.unwrap(), second.unwrap());
        one.kill().await;
        assert_eq!(two.call(add(1, 2)).await.unwrap(), 3);
        two.shutdown().await;
    })
    .await;
}

/// Opens a descriptor before `init` does anything, as constructors of C libraries do: without
/// close-on-exec.
mod constructor {
    use std::os::fd::IntoRawFd as _;
    use std::sync::atomic::{AtomicI32, Ordering};

    static OPENED: AtomicI32 = AtomicI32::new(-1);

    extern "C" fn open() {
        let Ok(file) = rustix::fs::memfd_create(c"constructor", rustix::fs::MemfdFlags::empty())
        else {
            return;
        };
        OPENED.store(file.into_raw_fd(), Ordering::Relaxed);
    }

    // Sorted before the constructor of `test_workers!`, which has no priority.
    #[used]
    #[expect(unsafe_code, reason = "a constructor")]
    #[unsafe(link_section = ".init_array.00101")]
    static ENTER: extern "C" fn() = open;

    /// What this process's descriptor leads to now.
    pub(super) fn opened() -> String {
        let path = format!("/proc/self/fd/{}", OPENED.load(Ordering::Relaxed));
        std::fs::read_link(path)
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

#[brigade::task]
fn opened_by_the_constructor() -> String {
    constructor::opened()
}

#[tokio::test]
async fn a_worker_keeps_descriptors_that_its_own_constructors_opened() {
    soon(async {
        assert!(
            constructor::opened().starts_with("/memfd:constructor"),
            "the constructor runs: {}",
            constructor::opened()
        );
        let pool = pool_of(1).await;
        for _ in 0..2 {
            let opened = pool.call(opened_by_the_constructor()).await.unwrap();
            assert!(
                opened.starts_with("/memfd:constructor"),
                "closed and reused: {opened:?}"
            );
        }
        pool.shutdown().await;
    })
    .await;
}

#[brigade::task]
fn own_arguments() -> Vec<String> {
    std::env::args().collect()
}

#[tokio::test]
async fn a_worker_has_the_name_of_the_program_and_its_first_argument() {
    soon(async {
        let pool = pool_of(1).await;
        let comm = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        let own: String = std::path::Path::new(&std::env::args().next().unwrap())
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .into();
        assert_eq!(
            comm(&pids(&pool)[0].to_string()).trim_end(),
            &own[..own.len().min(15)]
        );
        for _ in 0..2 {
            // Also after the title was written over the arguments' memory.
            assert_eq!(
                pool.call(own_arguments()).await.unwrap(),
                [std::env::args().next().unwrap()]
            );
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_task_starts_does_not_take_itself_for_a_worker() {
    soon(async {
        let pool = pool_of(1).await;
        assert!(
            !pool
                .call(environment())
                .await
                .unwrap()
                .contains_key("BRIGADE_WORKER")
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_program_between_pool_and_worker_is_named() {
    soon(async {
        // The shell stays, as the program is not its last command.
        let script = "\"$0\"; exit $?";
        let own = std::env::current_exe().unwrap();
        let builder = Pool::builder().workers(1).program(
            "/bin/sh",
            ["-c".into(), script.into(), own.into_os_string()],
        );
        let error = builder.start().await.unwrap_err().to_string();
        assert!(
            error.contains("(sh), not its pool") && error.contains("by exec"),
            "{error}"
        );
        // With exec it works.
        let own = std::env::current_exe().unwrap();
        let builder = Pool::builder().workers(1).program(
            "/bin/sh",
            ["-c".into(), "exec \"$0\"".into(), own.into_os_string()],
        );
        let pool = builder.start().await.unwrap();
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}
