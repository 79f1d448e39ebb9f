//! Workers of another build: a copy of this program is one, for it is another file.

use std::path::PathBuf;

use brigade::{ErrorKind, Pool};
use tempfile::TempDir;

use crate::probe::soon;
use crate::tasks::*;

fn other_build() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = directory.path().join("copy");
    std::fs::copy("/proc/self/exe", &copy).expect("a copy of this program");
    (directory, copy)
}

#[tokio::test]
async fn bad_use_a_function_is_refused_by_another_build_and_a_task_is_not() {
    soon(async {
        let (_directory, program) = other_build();
        let pool = Pool::builder().workers(1).program(program, [""; 0]).start().await.unwrap();
        let error = pool.run(|a: i64| a, (1,)).await.unwrap_err();
        assert_eq!(error.rejected(), Some(ErrorKind::OtherBuild));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("#[task]"), "{cause}");
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3, "a name means the same in both");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_hooks_are_refused_by_another_build() {
    soon(async {
        let (_directory, program) = other_build();
        let pool = Pool::builder().workers(1).program(program, [""; 0]).init(|| Ok::<_, brigade::Failure>(7_u8), &());
        let error = pool.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        assert!(error.to_string().contains("build"), "{error}");
    })
    .await;
}
