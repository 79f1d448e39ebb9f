//! Which queue is asked first.

use brigade::ErrorKind;

use crate::*;

/// Serves one job after the other; the queues that they came from, as letters.
async fn order(setting: &Setting, queues: impl FnOnce(Consumer) -> Consumer, file: &str) -> String {
    queues(setting.broker.consumer().in_process().prefetch(1))
        .run_until_empty()
        .await
        .unwrap();
    fs::read_to_string(setting.path(file))
        .unwrap()
        .split_whitespace()
        .collect()
}

async fn fill(setting: &Setting, file: &str, queues: &[(&str, usize)]) {
    for (queue, count) in queues {
        let job = || {
            setting
                .broker
                .queue(*queue)
                .job(&(setting.path(file), queue))
                .unwrap()
                .task("notes")
        };
        setting
            .broker
            .push_many((0..*count).map(|_| job()).collect())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn queues_are_strict_or_share_by_weight() {
    let setting = Setting::new(1).await;
    fill(&setting, "strict", &[("b", 3), ("a", 3)]).await;
    assert_eq!(
        order(&setting, |worker| worker.queue("a").queue("b"), "strict").await,
        "aaabbb"
    );

    fill(&setting, "weighted", &[("b", 4), ("a", 6), ("s", 2)]).await;
    let weighted = order(
        &setting,
        |worker| worker.weighted("a", 3).weighted("b", 1).queue("s"),
        "weighted",
    )
    .await;
    assert_eq!(
        weighted, "ssaabaaababb",
        "strict queues come first, and an empty queue holds up no other"
    );

    fill(&setting, "equal", &[("b", 3), ("a", 3), ("c", 1), ("s", 2)]).await;
    let equal = order(
        &setting,
        |worker| {
            worker
                .weighted("a", 1)
                .weighted("b", 1)
                .weighted("c", 1)
                .queue("s")
        },
        "equal",
    )
    .await;
    assert_eq!(equal, "ssabcabab", "equal weights take turns");
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn the_queues_of_all_tasks_and_of_given_tasks_take_equal_turns() {
    let setting = Setting::new(1).await;
    let queues = [("add", 3), ("join", 3), ("own_pid", 1)];
    fill(&setting, "default", &queues).await;
    assert_eq!(
        order(&setting, |worker| worker, "default").await,
        "addjoinown_pidaddjoinaddjoin"
    );
    fill(&setting, "given", &queues).await;
    let given = order(
        &setting,
        |worker| worker.task(own_pid).task(join).task(add),
        "given",
    )
    .await;
    assert_eq!(given, "own_pidjoinaddjoinaddjoinadd");
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_worker_is_given_its_tasks_by_their_functions() {
    let setting = Setting::new(1).await;
    setting.push(add(1, 2)).await;
    setting.push(own_pid()).await;
    setting.push(fails("not served".to_owned())).await;
    let served = setting
        .consumer()
        .task(add)
        .task(own_pid)
        .run_until_empty()
        .await
        .unwrap();
    assert_eq!((served.done, served.failed), (2, 0));

    fn no_task(_: i64) -> brigade::Call<i64> {
        add(1, 2)
    }
    let error = setting
        .consumer()
        .task(no_task)
        .run_until_empty()
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::BadOption && error.to_string().contains("no_task"),
        "{error}"
    );
    setting.pool.shutdown().await;
}
