//! [`Collector`]: receives spans by OTLP over HTTP.
//!
//! It is a server with one route, which decodes the protobuf that exporters send. It keeps all
//! spans that it received, as text and in the order of their arrival, and wakes tests that wait for
//! more. Its thread and its runtime are its own, so that a process whose exporter blocks can send
//! to it. It ends with its process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedSpan {
    /// `service.name` of the process that sent it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Hexadecimal.
    pub trace: String,
    /// Hexadecimal.
    pub id: String,
    /// Hexadecimal; empty for a root.
    pub parent: String,
    /// Trace and span of each link.
    pub links: Vec<(String, String)>,
    /// As OTLP numbers them: 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    /// Whether its status is an error.
    pub is_error: bool,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
}

/// Receives spans for as long as it lives.
pub struct Collector {
    endpoint: String,
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    count: watch::Receiver<usize>,
}

impl Collector {
    /// Starts on a free port. It has a runtime of its own, so that a program whose exporter blocks
    /// its threads can send to it.
    ///
    /// # Panics
    ///
    /// If it cannot start.
    pub fn start() -> Self {
        let spans = Arc::<Mutex<Vec<ReceivedSpan>>>::default();
        let (counting, count) = watch::channel(0);
        let (sender, endpoint) = std::sync::mpsc::sync_channel(1);
        let received = Arc::clone(&spans);
        let serve = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            sender
                .send(format!("http://{address}/v1/traces"))
                .expect("the test waits for it");
            let receive = move |body: Bytes| async move {
                let Ok(request) = ExportTraceServiceRequest::decode(body) else {
                    return StatusCode::BAD_REQUEST;
                };
                let mut spans = received.lock().unwrap_or_else(PoisonError::into_inner);
                spans.extend(spans_of(request));
                counting.send_replace(spans.len());
                StatusCode::OK
            };
            let routes = Router::new().route("/v1/traces", post(receive));
            axum::serve(listener, routes).await.expect("it serves");
        };
        let run = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(serve);
        };
        std::thread::Builder::new()
            .name("collector".to_owned())
            .spawn(run)
            .expect("a thread");
        Self {
            endpoint: endpoint.recv().expect("the collector started"),
            spans,
            count,
        }
    }

    /// Where spans are sent to.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Waits until the spans that have arrived are enough, and gives them.
    ///
    /// # Panics
    ///
    /// If that takes more than a minute; the message has what has arrived.
    pub async fn until(&self, enough: impl Fn(&[ReceivedSpan]) -> bool) -> Vec<ReceivedSpan> {
        let mut count = self.count.clone();
        let waiting = async {
            loop {
                let spans = self.all();
                if enough(&spans) {
                    return spans;
                }
                count.changed().await.expect("the collector lives");
            }
        };
        let minute = std::time::Duration::from_secs(60);
        match tokio::time::timeout(minute, waiting).await {
            Ok(spans) => spans,
            Err(_) => panic!("not enough spans: {:#?}", self.all()),
        }
    }

    fn all(&self) -> Vec<ReceivedSpan> {
        self.spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn spans_of(request: ExportTraceServiceRequest) -> Vec<ReceivedSpan> {
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes);
        let attributes = attributes.unwrap_or_default();
        let service = attributes
            .iter()
            .find(|attribute| attribute.key == "service.name")
            .and_then(|attribute| Some(text(attribute.value.as_ref()?.value.as_ref()?)))
            .unwrap_or_default();
        let of_scopes = resource.scope_spans.into_iter();
        let of_scopes = of_scopes.flat_map(|scope| scope.spans);
        spans.extend(of_scopes.map(|span| received(&service, span)));
    }
    spans
}

fn received(service: &str, span: Span) -> ReceivedSpan {
    let attributes = span.attributes.into_iter().filter_map(|attribute| {
        let value = attribute.value?.value?;
        Some((attribute.key, text(&value)))
    });
    ReceivedSpan {
        service: service.to_owned(),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span
            .links
            .iter()
            .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
            .collect(),
        kind: span.kind,
        is_error: span.status.is_some_and(|status| status.code == 2),
        attributes: attributes.collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    }
}
