//! Workers of another build, and of the same one in another file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use brigade::{CallError, Context, ErrorKind, Pool, Task, TimedOut, task};
use tempfile::TempDir;

use crate::probe::soon;
use crate::tasks::*;

fn copy() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = directory.path().join("copy");
    std::fs::copy("/proc/self/exe", &copy).expect("a copy of this program");
    (directory, copy)
}

/// A copy that says to be another build: a byte of the linker's build id (elf(5), a note of type 3
/// by "GNU") is another.
fn other_build() -> (TempDir, PathBuf) {
    let (directory, program) = copy();
    let mut bytes = std::fs::read(&program).expect("it can be read");
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = bytes
        .windows(note.len())
        .position(|window| window == note)
        .expect("the linker writes a build id");
    bytes[at + note.len()] ^= 1;
    std::fs::write(&program, bytes).expect("it can be written");
    (directory, program)
}

#[tokio::test]
async fn a_function_runs_in_the_same_build_wherever_its_file_lies() {
    soon(async {
        let (_directory, program) = copy();
        let pool = Pool::builder()
            .workers(1)
            .program(program, [""; 0])
            .start()
            .await
            .unwrap();
        assert_eq!(pool.run(|a: i64| a, (1,)).await.unwrap(), 1);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_a_function_is_refused_by_another_build_and_a_task_is_not() {
    soon(async {
        let (_directory, program) = other_build();
        let pool = Pool::builder()
            .workers(1)
            .program(program, [""; 0])
            .start()
            .await
            .unwrap();
        let error = pool.run(|a: i64| a, (1,)).await.unwrap_err();
        assert_eq!(error.rejected(), Some(ErrorKind::OtherBuild));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("#[task]"), "{cause}");
        assert_eq!(
            pool.call(add(1, 2)).await.unwrap(),
            3,
            "a name means the same in both"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_hooks_are_refused_by_another_build() {
    soon(async {
        let (_directory, program) = other_build();
        let pool = Pool::builder()
            .workers(1)
            .program(program, [""; 0])
            .init(|| Ok::<_, brigade::Failure>(7_u8), &());
        let error = pool.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        assert!(error.to_string().contains("build"), "{error}");
    })
    .await;
}

#[task(timeout = "300ms")]
fn spins_with_a_timeout() -> u8 {
    loop {
        std::hint::spin_loop();
    }
}

#[task(retries = 2)]
fn succeeds_at_third(cx: &Context) -> Result<u32, String> {
    match cx.attempt() {
        3 => Ok(3),
        number => Err(format!("attempt {number}")),
    }
}

#[task(memory = "64MiB")]
fn hogs_with_a_limit() -> usize {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
        std::hint::black_box(&held);
    }
}

/// The options of a task's registration hold where it runs, also in another program.
#[tokio::test]
async fn what_a_call_by_name_leaves_open_the_registration_in_the_other_program_says() {
    const SPINS: Task<(), u8> = Task::new("spins_with_a_timeout");
    const THIRD: Task<(), u32> = Task::new("succeeds_at_third");
    const HOGS: Task<(), usize> = Task::new("hogs_with_a_limit");
    soon(async {
        let (_directory, program) = other_build();
        for slots in [1, 2] {
            // No worker is there yet: the first call waits for one, and for these options.
            let pool = Pool::builder()
                .workers(0..=1)
                .slots(slots)
                .program(&program, [""; 0])
                .start()
                .await
                .unwrap();
            assert_eq!(pool.call(THIRD.call(())).await.unwrap(), 3);
            let error = pool.call(SPINS.call(())).await.unwrap_err();
            assert!(
                matches!(error, CallError::TimedOut(TimedOut::Run(_))),
                "{error}"
            );
            let error = pool.call(HOGS.call(())).await.unwrap_err();
            assert!(matches!(error, CallError::Crashed(_)), "{error}");
            let error = pool.call(THIRD.call(()).retries(0)).await.unwrap_err();
            assert!(
                matches!(error, CallError::Failed(_)),
                "the call itself says otherwise: {error}"
            );
            pool.shutdown().await;
        }
    })
    .await;
}

/// How many calls of the two tasks below this worker has begun.
static BEGUN: AtomicU32 = AtomicU32::new(0);

#[task(priority = 1)]
fn goes_first() -> u32 {
    BEGUN.fetch_add(1, Ordering::Relaxed)
}

#[task]
fn goes_last() -> u32 {
    BEGUN.fetch_add(1, Ordering::Relaxed)
}

#[task(queue_timeout = "50ms")]
fn waits_for_50_ms() {}

#[task(labels = ["gpu"])]
fn needs_a_gpu() {}

/// A pool of one worker, which is another build of this program.
async fn other_program(program: &Path) -> Pool {
    let pool = Pool::builder().workers(0..=1).program(program, [""; 0]);
    pool.start().await.unwrap()
}

#[tokio::test]
async fn the_registration_in_the_other_program_also_says_where_and_how_long_a_call_waits() {
    const LABELLED: Task<(), ()> = Task::new("needs_a_gpu");
    const FIRST: Task<(), u32> = Task::new("goes_first");
    const LAST: Task<(), u32> = Task::new("goes_last");
    const BRIEF: Task<(), ()> = Task::new("waits_for_50_ms");
    soon(async {
        let (_directory, program) = other_build();
        // Calls that wait for the first worker are given these options when it is there, later
        // ones when they are made.
        let pool = other_program(&program).await;
        for _ in 0..2 {
            let error = pool.call(LABELLED.call(())).await.unwrap_err();
            assert_eq!(error.rejected(), Some(ErrorKind::BadOption), "{error}");
        }
        pool.shutdown().await;
        for is_ready in [false, true] {
            let pool = other_program(&program).await;
            if is_ready {
                pool.call(LAST.call(())).await.unwrap();
            }
            let busy = pool.call(last_report().priority(2));
            if is_ready {
                busy.progress().next().await.expect("it runs");
            }
            let (last, first) = (pool.call(LAST.call(())), pool.call(FIRST.call(())));
            let error = pool.call(BRIEF.call(())).await.unwrap_err();
            assert!(
                matches!(error, CallError::TimedOut(TimedOut::Queue(_))),
                "{error}"
            );
            busy.cancel("the others wait").await;
            assert_eq!(first.await.unwrap() + 1, last.await.unwrap());
            pool.shutdown().await;
        }
    })
    .await;
}
