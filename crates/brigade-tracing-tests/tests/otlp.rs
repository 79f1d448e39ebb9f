//! Traces end to end: two processes and more send their spans by OTLP to one collector.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use brigade::{Broker, CallError, Context, Failure, JobState, Pool, Retry, ToJob as _, task};
use brigade_tracing_tests::{Collector, ReceivedSpan, export_spans};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Instrument as _, Span, info_span};

brigade::test_workers!();

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

/// One collector for all tests of this process, whose own spans go there too.
fn collector() -> &'static Collector {
    static COLLECTOR: OnceLock<(Collector, SdkTracerProvider)> = OnceLock::new();
    let (collector, _) = COLLECTOR.get_or_init(|| {
        let collector = Collector::start();
        let endpoint = collector.endpoint().to_owned();
        let provider = export_spans(endpoint, "test".to_owned()).unwrap();
        (collector, provider)
    });
    collector
}

/// A pool whose workers send their spans too.
async fn traced_pool(collector: &Collector) -> Pool {
    Pool::builder()
        .workers(1)
        .init(
            export_spans,
            &(collector.endpoint().to_owned(), "worker".to_owned()),
        )
        .start()
        .await
        .unwrap()
}

async fn broker_in(directory: &Path) -> Broker {
    let url = format!("sqlite:{}/jobs.db", directory.display());
    Broker::connect(&url).await.unwrap()
}

/// The span of this name in a trace.
#[track_caller]
fn span<'a>(spans: &'a [ReceivedSpan], trace: &str, name: &str) -> &'a ReceivedSpan {
    let mut found = spans
        .iter()
        .filter(|span| span.trace == trace && span.name == name);
    let one = found.next();
    assert!(found.next().is_none(), "{name} is there twice: {spans:#?}");
    one.unwrap_or_else(|| panic!("no span {name} in {trace}: {spans:#?}"))
}

fn has(spans: &[ReceivedSpan], trace: &str, name: &str) -> bool {
    spans
        .iter()
        .any(|span| span.trace == trace && span.name == name)
}

fn trace_of(request: &Span) -> String {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    request
        .context()
        .span()
        .span_context()
        .trace_id()
        .to_string()
}

/// Pushes another job, within a span of its own.
#[task]
async fn pushes_on(url: String) -> Result<(), brigade::Error> {
    let broker = Broker::connect(&url).await?;
    let within = info_span!("within the task");
    broker
        .push(last_of_all())
        .instrument(within)
        .await
        .map(drop)
}

#[task]
fn last_of_all(cx: &Context) -> Option<String> {
    cx.traceparent().map(|parent| parent.trace_id().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_from_the_request_to_the_push_the_attempt_the_worker_and_the_next_job() {
    let collector = collector();
    let directory = tempfile::tempdir().unwrap();
    let (broker, pool) = (
        broker_in(directory.path()).await,
        traced_pool(collector).await,
    );
    let request = info_span!("request");
    let trace = trace_of(&request);
    let url = format!("sqlite:{}/jobs.db", directory.path().display());
    let id = async { broker.push(pushes_on(url)).await.unwrap().id().clone() }
        .instrument(request.clone())
        .await;
    drop(request);
    let ended = async {
        collector
            .until(|spans| has(spans, &trace, "process last_of_all"))
            .await
    };
    let consumer = broker.consumer().on(&pool);
    let handle = consumer.handle();
    let (served, spans) = tokio::join!(consumer.run_until(std::future::pending::<()>()), async {
        let spans = ended.await;
        handle.drain();
        spans
    });
    served.unwrap();
    pool.shutdown().await;

    let find = |name: &str| span(&spans, &trace, name);
    let chain = [
        ("request", "test", None),
        ("push pushes_on", "test", Some(PRODUCER)),
        ("process pushes_on", "test", Some(CONSUMER)),
        ("run pushes_on", "worker", Some(SERVER)),
        ("within the task", "worker", None),
        ("push last_of_all", "worker", Some(PRODUCER)),
        ("process last_of_all", "test", Some(CONSUMER)),
        ("run last_of_all", "worker", Some(SERVER)),
    ];
    let mut parent = String::new();
    for (name, service, kind) in chain {
        let span = find(name);
        assert_eq!(
            (&span.parent, span.service.as_str()),
            (&parent, service),
            "{span:#?}"
        );
        assert!(kind.is_none_or(|kind| kind == span.kind), "{span:#?}");
        assert!(!span.is_error, "{span:#?}");
        parent.clone_from(&span.id);
    }
    let attempt = find("process pushes_on");
    let attribute = |name: &str| attempt.attributes.get(name).map(String::as_str);
    assert_eq!(
        [
            attribute("messaging.message.id"),
            attribute("messaging.destination.name"),
            attribute("brigade.task"),
            attribute("brigade.attempt"),
            attribute("brigade.outcome"),
        ],
        [
            Some(id.as_str()),
            Some("pushes_on"),
            Some("pushes_on"),
            Some("1"),
            Some("done")
        ]
    );
    assert!(attribute("brigade.worker.pid").is_some(), "{attempt:#?}");
}

/// Fails the first time.
#[task(retries = 1, retry_base = "1ms", retry_cap = "1ms")]
fn fails_first(cx: &Context) -> Result<(), Failure> {
    match cx.attempt() {
        1 => Err(Failure::new("not yet")),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_attempt_of_a_job_is_a_trace_of_its_own_that_links_to_the_push() {
    let collector = collector();
    let directory = tempfile::tempdir().unwrap();
    let (broker, pool) = (
        broker_in(directory.path()).await,
        traced_pool(collector).await,
    );
    let request = info_span!("request");
    let trace = trace_of(&request);
    let job = fails_first()
        .to_job()
        .unwrap()
        .keep(Duration::from_secs(60));
    let id = async { broker.push(job).await.unwrap().id().clone() }
        .instrument(request)
        .await;
    let consumer = broker.consumer().queue("fails_first").on(&pool);
    let handle = consumer.handle();
    let (served, job) = tokio::join!(consumer.run_until(std::future::pending::<()>()), async {
        let job = broker.wait(&id).await.unwrap().unwrap();
        handle.drain();
        job
    });
    served.unwrap();
    pool.shutdown().await;
    assert_eq!(job.state, JobState::Done);

    let is_second = |span: &&ReceivedSpan| {
        span.name == "process fails_first"
            && span
                .attributes
                .get("messaging.message.id")
                .map(String::as_str)
                == Some(id.as_str())
            && span.attributes["brigade.attempt"] == "2"
    };
    let spans = collector
        .until(|spans| spans.iter().any(|span| is_second(&span)))
        .await;
    let push = span(&spans, &trace, "push fails_first");
    let first = span(&spans, &trace, "process fails_first");
    assert_eq!((&first.parent, first.is_error), (&push.id, true));
    assert_eq!(first.attributes["brigade.outcome"], "failed");
    assert!(first.links.is_empty());
    let second = spans.iter().find(is_second).unwrap();
    assert_eq!(
        (&second.links[..], second.parent.as_str()),
        (&[(trace.clone(), push.id.clone())][..], "")
    );
    assert_ne!(second.trace, trace);
    let run = span(&spans, &second.trace, "run fails_first");
    assert_eq!(
        (&run.parent, run.service.as_str()),
        (&second.id, "worker"),
        "{run:#?}"
    );
}

#[task]
fn aborts() {
    std::process::abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_a_call_are_spans_that_say_how_they_ended() {
    let collector = collector();
    let pool = traced_pool(collector).await;
    let request = info_span!("request");
    let trace = trace_of(&request);
    let pause = Duration::from_millis(1);
    let calls = async {
        let call = fails_first()
            .retries(1)
            .retry(Retry::exponential(pause, pause));
        pool.call(call).await.unwrap();
        let error = pool.call(aborts()).await.unwrap_err();
        assert!(matches!(error, CallError::Crashed(_)), "{error}");
    };
    calls.instrument(request.clone()).await;
    drop(request);
    pool.shutdown().await;

    let spans = collector.until(|spans| has(spans, &trace, "request")).await;
    let request = span(&spans, &trace, "request");
    let first = span(&spans, &trace, "call fails_first");
    assert_eq!(
        (&first.parent, first.kind, first.is_error),
        (&request.id, CLIENT, true)
    );
    let run = span(&spans, &trace, "run fails_first");
    assert_eq!((&run.parent, run.is_error), (&first.id, true));
    let links = [(trace.clone(), request.id.clone())];
    let second = spans.iter().find(|span| span.links == links);
    let second = second.unwrap_or_else(|| panic!("no second attempt: {spans:#?}"));
    assert_eq!(
        (
            second.name.as_str(),
            second.attributes["brigade.outcome"].as_str()
        ),
        ("call fails_first", "done")
    );
    let crashed = span(&spans, &trace, "call aborts");
    assert_eq!(
        (&crashed.parent, crashed.is_error),
        (&request.id, true),
        "{crashed:#?}"
    );
    let says = ["brigade.outcome", "brigade.exit"].map(|name| &*crashed.attributes[name]);
    assert_eq!(says, ["crashed", "SIGABRT"]);
    assert!(!has(&spans, &trace, "run aborts"), "its worker died");
}
