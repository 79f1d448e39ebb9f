//! Sends the spans of a process to a collector, each when it ends.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sets this process' subscriber: its spans go to that endpoint. They are sent until the provider
/// is dropped.
///
/// # Errors
///
/// If there is a subscriber already.
pub fn export_spans(endpoint: String, service: String) -> Result<SdkTracerProvider, BoxError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(BlockingClient)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()?;
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("brigade-tests"));
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(provider)
}

/// Sends a request and waits for the answer: no runtime is needed, and none of ours is in the way.
#[derive(Debug)]
struct BlockingClient;

#[async_trait::async_trait]
impl HttpClient for BlockingClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        Ok(send(&request)?)
    }
}

fn send(request: &Request<Bytes>) -> io::Result<Response<Bytes>> {
    let no_place = || io::Error::other("a request without a place");
    let place = request.uri().authority().ok_or_else(no_place)?.as_str();
    let mut stream = TcpStream::connect(place)?;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {place}\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        request.uri().path(),
        request.body().len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(request.body())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status.unwrap_or(http::StatusCode::BAD_GATEWAY);
    Ok(response)
}
