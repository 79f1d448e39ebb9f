//! Long looks run on a thread of their own.

use std::sync::{Mutex, mpsc};

use super::*;

async fn sqlite(path: Option<&std::path::Path>) -> Sqlite {
    let config = SqliteConfig {
        path: path.map(Into::into),
        link: None,
        safety: Safety::Normal,
        shared: false,
    };
    Sqlite::open(config, Clock::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_look_holds_up_no_push_and_sees_what_was_pushed_before() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = sqlite(Some(&directory.path().join("jobs.db"))).await;
    let push = || sqlite.push(vec![Job::new("q", None, "1")]);
    push().await.unwrap();
    let (began, begun) = mpsc::sync_channel(1);
    let (release, held) = mpsc::sync_channel::<()>(1);
    let (began, held) = (Mutex::new(began), Mutex::new(held));
    let looking = sqlite.look_long(move |store| {
        let counts = store.counts();
        crate::sync::lock(&began).send(()).ok();
        // Ends with the sender.
        crate::sync::lock(&held).recv().ok();
        counts
    });
    let pushing = async {
        while begun.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        push().await.unwrap();
        drop(release);
    };
    let (counts, ()) = tokio::join!(looking, pushing);
    assert_eq!(counts.unwrap()[0].jobs, [(JobState::Ready, 1)]);
    let counts = sqlite.counts().await.unwrap();
    assert_eq!(counts[0].jobs, [(JobState::Ready, 2)]);
}

#[tokio::test]
async fn a_database_in_memory_is_looked_at_by_its_one_connection() {
    let sqlite = sqlite(None).await;
    let jobs = vec![Job::new("q", None, "1")];
    sqlite.push(jobs).await.unwrap();
    let counts = sqlite.counts().await.unwrap();
    assert_eq!(counts[0].jobs, [(JobState::Ready, 1)]);
    assert!(sqlite.looks.get().is_none());
}
