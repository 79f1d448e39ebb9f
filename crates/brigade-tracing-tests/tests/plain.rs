//! Spans as any subscriber of `tracing` sees them, without a layer of OpenTelemetry.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use brigade::{Broker, Error, Pool, TraceParent, task};
use tracing::span::{Attributes, Id};
use tracing::{Instrument as _, Subscriber, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

brigade::test_workers!();

/// Name and parent of each span, in the order of their beginnings, then of their ends.
static BEGUN: Mutex<Vec<(String, Option<String>)>> = Mutex::new(Vec::new());
static ENDED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Notes;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let span = cx.span(id).unwrap();
        let parent = span.parent().map(|parent| parent.name().to_owned());
        let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
        begun.push((span.name().to_owned(), parent));
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        let name = cx.span(&id).unwrap().name().to_owned();
        ENDED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name);
    }
}

fn parents_of(name: &str) -> Vec<Option<String>> {
    let begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    let of_name = begun.iter().filter(|(begun, _)| begun == name);
    of_name.map(|(_, parent)| parent.clone()).collect()
}

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_without_opentelemetry_sees_the_spans_and_traces_are_passed_on() {
    tracing_subscriber::registry().with(Notes).init();
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let of_call = info_span!("the call's caller");
    async { assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3) }
        .instrument(of_call)
        .await;
    pool.shutdown().await;
    assert_eq!(
        parents_of("brigade.attempt"),
        [Some("the call's caller".to_owned())]
    );
    // The span ends before its caller goes on.
    let ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(ended, ["brigade.attempt", "the call's caller"]);

    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/jobs.db", directory.path().display());
    let broker = Broker::connect(&url).await.unwrap();
    let given: TraceParent = GIVEN.parse().unwrap();
    let job = broker.queue("first").job(&1).unwrap().traceparent(given);
    async { broker.push(job).await.unwrap() }
        .instrument(info_span!("the pusher"))
        .await;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let pushing = broker.clone();
    let consumer = broker.consumer().queue("first").handler(move |_| {
        let (broker, sender) = (pushing.clone(), sender.clone());
        async move {
            let id = broker.queue("second").push(&2).await?;
            sender.send(id).await.ok();
            Ok::<_, Error>(())
        }
        .instrument(info_span!("the handler"))
    });
    let handle = consumer.handle();
    let (served, second) = tokio::join!(consumer.run_until(std::future::pending::<()>()), async {
        let second = receiver.recv().await.unwrap();
        handle.drain();
        second
    });
    assert_eq!(served.unwrap().done, 1);
    let expected = |name: &str| Some(name.to_owned());
    assert_eq!(
        parents_of("brigade.push"),
        [expected("the pusher"), expected("the handler")]
    );
    assert_eq!(parents_of("brigade.attempt")[1..], [None]);
    assert_eq!(parents_of("the handler"), [expected("brigade.attempt")]);

    let (lease, wait) = (Duration::from_secs(30), Duration::ZERO);
    let leased = broker.queue("second").lease(lease, wait).await.unwrap();
    let leased = leased.unwrap();
    assert_eq!(
        (leased.id(), leased.traceparent().map(TraceParent::as_str)),
        (&second, Some(GIVEN)),
        "what a job pushes belongs to its trace"
    );
    leased.ack().await.unwrap();
}
