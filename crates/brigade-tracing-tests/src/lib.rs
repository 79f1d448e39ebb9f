//! A collector and an exporter for tests: spans go over HTTP as OTLP, in protobuf, as in
//! production.

mod collector;
mod exporter;

pub use collector::{Collector, ReceivedSpan};
pub use exporter::export_spans;
