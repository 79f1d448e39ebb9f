//! Jobs that a task runs in a pool of worker processes.
//!
//! What the job does not say, the registration of its task says: timeout, retries, the time for
//! retries; but only if the pool runs this program. The task reads its job and the number of its
//! attempt from its context. Values that JSON cannot express are refused before they are pushed.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use brigade::{
    AttemptKind, AttemptOutcome, Context, Cost, ErrorKind, Failure, JobId, JobState, Pool,
    ToJob as _, task,
};
use serde_json::{Value, json};

use super::consumers::beside;
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(what_a_plain_push_does_not_say_the_task_s_registration_says_and_no_more),
    case!(options_of_this_program_s_tasks_are_not_taken_for_those_of_another_program),
    case!(the_time_for_retries_of_a_task_holds_for_a_job_that_was_pushed_by_its_name: scheduling),
    case!(a_task_knows_its_job_and_the_number_of_its_attempt),
    case!(a_kept_job_that_is_done_shows_its_attempts_and_what_they_cost: results, listing),
    case!(what_json_cannot_carry_is_refused_before_it_is_pushed),
];

const BOUND: Duration = Duration::from_secs(60);

fn note(file: &str, line: &Value) {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn lines(file: &Path) -> Vec<Value> {
    fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn told(cx: &Context) -> Value {
    json!({"job": cx.job(), "attempt": cx.attempt()})
}

/// Never ends by itself.
#[task(timeout = "200ms", retries = 1, retry_base = "1ms", retry_cap = "1ms")]
fn hangs_at_work(cx: &Context, file: String) {
    note(&file, &told(cx));
    loop {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Ends well the third time.
#[task(retries = 5, retry_base = "1ms", retry_cap = "1ms")]
fn fails_twice_at_work(cx: &Context, file: String) -> Result<(), Failure> {
    note(&file, &told(cx));
    if cx.attempt() < 3 {
        Err(Failure::new("not yet"))
    } else {
        Ok(())
    }
}

/// Serves a queue until its task has written so many lines, and then for as long as it takes to
/// settle them.
async fn served(
    subject: &Subject,
    pool: &Pool,
    queue: &str,
    file: &Path,
    wanted: usize,
) -> Vec<Value> {
    let began = Instant::now();
    let stop = async {
        while lines(file).len() < wanted {
            assert!(began.elapsed() < BOUND, "only {:?}", lines(file));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    subject
        .broker
        .consumer()
        .queue(queue)
        .on(pool)
        .run_until(stop)
        .await
        .unwrap();
    lines(file)
}

async fn what_a_plain_push_does_not_say_the_task_s_registration_says_and_no_more(subject: Subject) {
    let directory = tempfile::tempdir().unwrap();
    let (file, pool) = (
        directory.path().join("lines"),
        Pool::builder().workers(1).start().await.unwrap(),
    );
    let name = "hangs_at_work";
    let queue = subject.broker.queue(name);
    // Where the job says nothing, the timeout of its task ends each attempt, and the retries of its
    // task bring one more. What the job says wins.
    for (retries, attempts) in [(None, 2), (Some(0), 1), (Some(2), 3)] {
        let mut job = queue.job(&file).unwrap();
        if let Some(retries) = retries {
            job = job.retries(retries).timeout(Duration::from_millis(50));
        }
        let id = subject.broker.push(job).await.unwrap().id().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let consumer = subject.broker.consumer().queue(name).on(&pool);
        let dead = async {
            let dead = tokio::time::timeout(BOUND, until_dead(&subject, name, &id)).await;
            drop(stop);
            dead.expect("it is a dead letter")
        };
        let (served, ()) = tokio::join!(consumer.run_until(stopped), dead);
        assert_eq!(served.unwrap().failed, attempts, "{retries:?} are said");
    }
    pool.shutdown().await;
}

/// Waits until this job is a dead letter.
async fn until_dead(subject: &Subject, queue: &str, id: &JobId) {
    if subject.broker.capabilities().dead_queues {
        let dead = subject.broker.queue(format!("{queue}.dead"));
        dead.take(BOUND).await.unwrap().unwrap();
        return;
    }
    while subject.broker.job(id).await.unwrap().unwrap().state != JobState::Dead {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Programs may have tasks of one name with other options.
async fn options_of_this_program_s_tasks_are_not_taken_for_those_of_another_program(
    subject: Subject,
) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    // This program, but a pool cannot know that.
    let program = std::env::current_exe().unwrap();
    let pool = Pool::builder().workers(1).program(program, [""; 0]);
    let pool = pool.start().await.unwrap();
    let name = "fails_twice_at_work";
    subject.broker.queue(name).push(&file).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = subject.broker.consumer().queue(name).on(&pool);
    let dead = async {
        let dead = tokio::time::timeout(BOUND, dead_letter(&subject, name)).await;
        drop(stop);
        dead
    };
    let (served, dead) = tokio::join!(serving.run_until(stopped), dead);
    served.unwrap();
    dead.expect("it has no retries that are known here");
    assert_eq!(lines(&file).len(), 1);
    pool.shutdown().await;
}

/// Its next attempt would begin later than it may.
#[task(
    retries = 5,
    retry_base = "90s",
    retry_cap = "90s",
    retry_within = "40s"
)]
fn has_forty_seconds(file: String) -> Result<(), Failure> {
    note(&file, &json!("ran"));
    Err(Failure::new("not today"))
}

/// None of its attempts can begin in time after a delay.
#[task(retries = 5, retry_within = "1ms")]
fn has_a_millisecond(file: String) {
    note(&file, &json!("ran"));
}

async fn the_time_for_retries_of_a_task_holds_for_a_job_that_was_pushed_by_its_name(
    subject: Subject,
) {
    let directory = tempfile::tempdir().unwrap();
    let pool = Pool::builder().workers(1).start().await.unwrap();
    for (name, delay, runs) in [
        ("has_forty_seconds", Duration::ZERO, 1),
        ("has_a_millisecond", Duration::from_millis(60), 0),
    ] {
        let (file, queue) = (directory.path().join(name), subject.broker.queue(name));
        let job = queue.job(&file).unwrap().delay(delay);
        subject.broker.push(job).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let consumer = subject.broker.consumer().queue(name).on(&pool);
        let serving = consumer.run_until(stopped);
        let dead = async {
            let reason = tokio::time::timeout(BOUND, dead_letter(&subject, name))
                .await
                .expect("it is a dead letter");
            drop(stop);
            reason
        };
        let (served, reason) = tokio::join!(serving, dead);
        served.unwrap();
        assert!(
            reason.is_none_or(|reason| reason.contains("may begin") || reason.contains("too late")),
            "{name}"
        );
        assert_eq!(lines(&file).len(), runs, "{name}");
    }
    pool.shutdown().await;
}

/// Waits for a dead letter of a queue; why it is one, where the broker lists its jobs.
async fn dead_letter(subject: &Subject, queue: &str) -> Option<String> {
    if subject.broker.capabilities().dead_queues {
        let dead = subject.broker.queue(format!("{queue}.dead"));
        dead.take(BOUND).await.unwrap().unwrap();
        return None;
    }
    loop {
        let dead = subject
            .broker
            .jobs(Some(queue), Some(JobState::Dead), None, 1)
            .await
            .unwrap();
        if let Some(job) = dead.into_iter().next() {
            return job.reason;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_task_knows_its_job_and_the_number_of_its_attempt(subject: Subject) {
    let directory = tempfile::tempdir().unwrap();
    let (file, pool) = (
        directory.path().join("lines"),
        Pool::builder().workers(1).start().await.unwrap(),
    );
    let mut job = subject
        .broker
        .queue("fails_twice_at_work")
        .job(&file)
        .unwrap()
        .label("a label");
    let keys = subject.broker.capabilities().keys;
    if keys {
        job = job.key("a key");
    }
    let id = subject.broker.push(job).await.unwrap().id().to_string();
    let told = served(&subject, &pool, "fails_twice_at_work", &file, 3).await;
    for (attempt, line) in (1..=3).zip(&told) {
        let job = json!({
            "id": id, "queue": "fails_twice_at_work", "key": keys.then_some("a key"), "label": "a label",
            "attempt": attempt, "history": attempt - 1,
        });
        assert_eq!(*line, json!({"job": job, "attempt": attempt}));
    }
    // A call that is no job.
    let plain = directory.path().join("plain").to_str().unwrap().to_owned();
    pool.call(fails_twice_at_work(plain.clone()).retries(2))
        .await
        .unwrap();
    assert_eq!(
        lines(Path::new(&plain))[2],
        json!({"job": null, "attempt": 3})
    );
    pool.shutdown().await;
}

/// Fails the first time, and takes a moment each time.
#[task(retries = 1, retry_base = "1ms", retry_cap = "1ms")]
fn takes_a_moment(cx: &Context, file: String) -> Result<u32, Failure> {
    std::thread::park_timeout(2 * Cost::MEASURED_FROM);
    note(&file, &told(cx));
    if cx.attempt() == 1 {
        return Err(Failure::new("not yet"));
    }
    Ok(std::process::id())
}

async fn a_kept_job_that_is_done_shows_its_attempts_and_what_they_cost(subject: Subject) {
    let directory = tempfile::tempdir().unwrap();
    let (file, pool) = (
        directory.path().join("lines"),
        Pool::builder().workers(1).start().await.unwrap(),
    );
    let path = file.display().to_string();
    let job = takes_a_moment(path.clone()).to_job().unwrap().keep(BOUND);
    let id = subject.broker.push(job).await.unwrap().id().clone();
    served(&subject, &pool, "takes_a_moment", &file, 2).await;
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let [failed, done] = &job.history[..] else {
        panic!("two attempts: {job:?}")
    };
    assert_eq!(
        (failed.attempt, failed.kind, failed.reason.as_str()),
        (1, AttemptKind::Failed, "not yet")
    );
    assert_eq!(
        (done.attempt, done.kind, done.reason.as_str()),
        (2, AttemptKind::Done, "")
    );
    for (record, ended) in [
        (failed, AttemptOutcome::Failed),
        (done, AttemptOutcome::Returned),
    ] {
        let report = record.report.as_ref().unwrap();
        assert_eq!(
            (report.task.as_str(), report.attempt, &report.ended),
            ("takes_a_moment", record.attempt, &ended)
        );
        assert!(report.cost.wall >= Cost::MEASURED_FROM, "{report}");
        assert!(
            report.cost.cpu.is_some() && report.cost.memory_peak > Some(1 << 20),
            "{report}"
        );
    }
    assert!(
        job.result
            .is_some_and(|pid| done.report.as_ref().unwrap().pid.to_string() == pid),
        "the report names the worker"
    );

    // In this process an attempt has its time alone.
    let job = takes_a_moment(path).to_job().unwrap().keep(BOUND);
    let id = subject.broker.push(job).await.unwrap().id().clone();
    let ended = subject.broker.wait(&id);
    let consumer = subject
        .broker
        .consumer()
        .queue("takes_a_moment")
        .in_process();
    let (ended, _) = beside(consumer, ended).await;
    let history = ended.unwrap().unwrap().history;
    let report = history.last().unwrap().report.as_ref().unwrap();
    assert_eq!(
        (report.pid, &report.ended),
        (std::process::id(), &AttemptOutcome::Returned)
    );
    assert!(report.cost.wall >= Cost::MEASURED_FROM && report.cost.cpu.is_none());
    pool.shutdown().await;
}

async fn what_json_cannot_carry_is_refused_before_it_is_pushed(subject: Subject) {
    let queue = subject.broker.queue("data");
    for (value, place) in [
        (json_of(f64::NAN), "at .items[1].price"),
        (json_of(f64::NEG_INFINITY), "at .items[1].price"),
    ] {
        let error = queue.push(&value).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains(place), "{error}");
    }
    let error = subject
        .broker
        .push(prices(vec![1.0, f64::INFINITY]))
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Encode && error.to_string().contains("at [0][1]"),
        "{error}"
    );
    assert_eq!(
        queue.push(&Some(Some(()))).await.unwrap_err().kind(),
        ErrorKind::Encode
    );
    // A result is refused, too, and the job is still there.
    queue.push(&1).await.unwrap();
    let lease = queue
        .lease(Duration::from_secs(30), BOUND)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        lease.clone().ack_with(&f32::NAN).await.unwrap_err().kind(),
        ErrorKind::Encode
    );
    lease.ack_with(&1.5).await.unwrap();
}

#[derive(serde::Serialize)]
struct PricedOrder {
    items: Vec<Item>,
}

#[derive(serde::Serialize)]
struct Item {
    price: f64,
}

fn json_of(price: f64) -> PricedOrder {
    PricedOrder {
        items: vec![Item { price: 0.5 }, Item { price }],
    }
}

#[task]
fn prices(all: Vec<f64>) -> usize {
    all.len()
}
