//! [`TraceExport`]: sends the spans of this process to an OpenTelemetry collector, as OTLP over HTTP.
//!
//! Spans gather in memory and go out in batches, by a thread of the exporter. What is left goes out
//! when the command ends, for a bounded time: a collector that is away delays nothing and fails
//! nothing, it only misses spans. Request bodies, payloads and credentials are in no span.

use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::collector::CollectorClient;
use crate::exit::usage;

/// The name of this program among the services of a collector, unless `OTEL_SERVICE_NAME` is set.
const SERVICE: &str = "brigade";
/// The path of traces below the address of a collector.
const PATH: &str = "/v1/traces";
/// The longest time for what is left when the command ends.
const FLUSH_TIME: Duration = Duration::from_secs(3);

/// Sends spans until it is dropped.
pub(crate) struct TraceExport(SdkTracerProvider);

impl TraceExport {
    /// Sends spans to the collector at this address, for example `http://127.0.0.1:4318`.
    pub(crate) fn start(address: &str) -> anyhow::Result<Self> {
        let endpoint = endpoint_of(address).map_err(usage)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(CollectorClient::new())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()
            .context("cannot send traces")?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self(provider))
    }

    /// What a subscriber needs to send spans of Brigade.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer: SdkTracer = self.0.tracer(SERVICE);
        let only = Targets::new().with_target("brigade", tracing::Level::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_filter(only)
    }
}

impl Drop for TraceExport {
    fn drop(&mut self) {
        // A collector that is away is no fault of the command.
        self.0.shutdown_with_timeout(FLUSH_TIME).ok();
    }
}

/// The address of traces at a collector: its own path, if it has one that is not the root.
fn endpoint_of(address: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        format!(
            "--trace-url {address:?} {why}: expected the address of an OpenTelemetry collector, as \
                in http://127.0.0.1:4318"
        )
    };
    let uri: Uri = address.parse().map_err(|_| wrong("is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("is neither http:// nor https://"));
    }
    let base = address.trim_end_matches('/');
    Ok(match base.ends_with(PATH) {
        true => base.to_owned(),
        false => format!("{base}{PATH}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_collector_is_that_of_its_traces_or_of_all() {
        for (address, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/", "https://otel.example/v1/traces"),
            ("http://otel/a/v1/traces", "http://otel/a/v1/traces"),
        ] {
            assert_eq!(endpoint_of(address).unwrap(), expected);
        }
        for wrong in ["", "localhost:4318", "grpc://localhost:4317", "http://"] {
            assert!(endpoint_of(wrong).is_err(), "{wrong:?}");
        }
    }
}
