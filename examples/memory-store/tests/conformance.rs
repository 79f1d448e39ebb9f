//! The store passes the conformance suite for what it declares.

use std::process::ExitCode;

use brigade::store::Reply;
use brigade::{Broker, Capabilities};
use brigade_conformance::{PlaceError, TestPlace, TestedStore};

struct Memory;

impl TestedStore for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            scheduling: true,
            whole_batches: true,
            keeps_places: true,
            clock: true,
            dead_queues: true,
            ..Capabilities::minimal()
        }
    }

    fn place(&self) -> Result<TestPlace, PlaceError> {
        Ok(TestPlace::new("memory"))
    }

    fn connect<'a>(&'a self, _address: &'a str) -> Reply<'a, Broker> {
        Box::pin(async { Ok(memory_store::broker()) })
    }
}

fn main() -> ExitCode {
    brigade_conformance::run(&[&Memory])
}
