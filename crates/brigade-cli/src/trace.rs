//! `--trace-url`: the spans of a command go to an OpenTelemetry collector.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod export;

use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[cfg(feature = "otlp")]
use self::export::TraceExport;

/// Where the spans of a command go.
#[derive(clap::Args)]
pub(crate) struct TraceOptions {
    /// Send traces to this OpenTelemetry collector, e.g. http://127.0.0.1:4318
    #[cfg(feature = "otlp")]
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true
    )]
    trace_url: Option<String>,
}

/// Sends what is left when it is dropped.
#[must_use = "traces are sent until it is dropped"]
pub(crate) struct Tracing {
    #[cfg(feature = "otlp")]
    _export: Option<TraceExport>,
}

impl TraceOptions {
    /// Sends spans from now on, if that is wanted; with `logs`, the events of this process go to
    /// standard error.
    pub(crate) fn start(&self, logs: bool) -> anyhow::Result<Tracing> {
        let has_logs = logs;
        let logs = has_logs.then(|| {
            // Spans are for the collector: in the log they would be before each line.
            let wanted = tracing_subscriber::filter::filter_fn(|about| {
                about.is_event() && *about.level() <= tracing::Level::INFO
            });
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .with_filter(wanted)
        });
        let subscriber = tracing_subscriber::registry().with(logs);
        #[cfg(feature = "otlp")]
        {
            let url = self.trace_url.as_deref().filter(|url| !url.is_empty());
            let export = url.map(TraceExport::start).transpose()?;
            let subscriber = subscriber.with(export.as_ref().map(TraceExport::layer));
            if export.is_some() || has_logs {
                subscriber.try_init().ok();
            }
            Ok(Tracing { _export: export })
        }
        #[cfg(not(feature = "otlp"))]
        {
            if has_logs {
                subscriber.try_init().ok();
            }
            Ok(Tracing {})
        }
    }
}
