//! The trace that a request belongs to travels with it, over every store, into the worker process.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use brigade::{Context, Failure, Pool, Retry, ToJob as _, TraceParent, task};

use super::consumers::{beside, elsewhere};
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_trace_arrives_in_each_attempt_also_after_a_retry),
    case!(a_job_without_a_trace_has_none),
    case!(the_trace_of_a_call_arrives_too: results or answers),
];

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Appends the trace of this attempt, and fails once.
#[task(queue = "traced")]
fn notes_its_trace(cx: &Context, to: PathBuf) -> Result<(), Failure> {
    let text = |parent: Option<&TraceParent>| {
        parent.map_or_else(|| "none".to_owned(), ToString::to_string)
    };
    let of_job = text(cx.job().and_then(|job| job.traceparent.as_ref()));
    let line = format!("{} {} {of_job}\n", cx.attempt(), text(cx.traceparent()));
    let file = OpenOptions::new().create(true).append(true).open(to);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(Failure::new)?;
    match cx.attempt() {
        1 => Err(Failure::new("the first attempt fails")),
        _ => Ok(()),
    }
}

/// What the attempts noted, once there are so many lines.
async fn lines(path: &PathBuf, count: usize) -> Vec<String> {
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= count && text.ends_with('\n') {
            return text.lines().map(str::to_owned).collect();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn a_trace_arrives_in_each_attempt_also_after_a_retry(subject: Subject) {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("traces");
    let other = elsewhere(&subject).await;
    let job = notes_its_trace(path.clone())
        .retries(1)
        .retry(Retry::exponential(
            Duration::from_millis(1),
            Duration::from_millis(1),
        ))
        .traceparent(TRACE.parse().unwrap())
        .to_job()
        .unwrap();
    other.push(job).await.unwrap();
    let consumer = subject.broker.consumer().queue("traced").on(&pool);
    let (noted, _) = beside(consumer, lines(&path, 2)).await;
    assert_eq!(
        noted,
        [format!("1 {TRACE} {TRACE}"), format!("2 {TRACE} {TRACE}")]
    );
    pool.shutdown().await;
}

async fn a_job_without_a_trace_has_none(subject: Subject) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("traces");
    let job = notes_its_trace(path.clone()).to_job().unwrap();
    subject.broker.push(job).await.unwrap();
    let consumer = subject.broker.consumer().queue("traced").in_process();
    let (noted, _) = beside(consumer, lines(&path, 1)).await;
    assert_eq!(noted, ["1 none none"]);
}

/// A call carries its trace as a job does.
async fn the_trace_of_a_call_arrives_too(subject: Subject) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("traces");
    let caller = elsewhere(&subject).await;
    let consumer = subject.broker.consumer().queue("traced").in_process();
    let call = caller.call(
        notes_its_trace(path.clone())
            .retries(1)
            .traceparent(TRACE.parse().unwrap()),
    );
    let (answer, _) = beside(consumer, call).await;
    answer.unwrap();
    let noted = lines(&path, 2).await;
    assert!(
        noted
            .iter()
            .all(|line| line.ends_with(&format!("{TRACE} {TRACE}"))),
        "{noted:?}"
    );
}
