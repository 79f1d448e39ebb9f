//! The conformance suite of Brigade's stores, for stores of your own.
//!
//! A store is an implementation of [`JobStore`](brigade::store::JobStore), which documents the
//! contract. This suite checks it, on the real thing: SQLite files, Redis servers, or whatever your
//! store speaks to. No case asks which store it runs on; each says which
//! [`Capabilities`](brigade::Capabilities) it needs.
//!
//! # How to run it
//!
//! A test target without the standard harness, which describes the store and calls [`run`]:
//!
//! ```toml
//! [dev-dependencies]
//! brigade-conformance = "0.1"
//!
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! ```no_run
//! // tests/conformance.rs
//! use std::process::ExitCode;
//!
//! use brigade::store::Reply;
//! use brigade::{Broker, Capabilities, Clock};
//! use brigade_conformance::{TestPlace, PlaceError, TestedStore};
//!
//! struct MyStore;
//!
//! impl TestedStore for MyStore {
//!     fn name(&self) -> &str {
//!         "my_store"
//!     }
//!
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities { durable: true, scheduling: true, ..Capabilities::minimal() }
//!     }
//!
//!     fn place(&self) -> Result<TestPlace, PlaceError> {
//!         let directory = tempfile::tempdir()?;
//!         let address = directory.path().join("jobs").display().to_string();
//!         Ok(TestPlace::new(address).keep(directory))
//!     }
//!
//!     fn connect<'a>(&'a self, address: &'a str) -> Reply<'a, Broker> {
//!         Box::pin(async move {
//!             let store = my_store::connect(address).await?;
//!             Ok(Broker::from_store(store, Clock::default()))
//!         })
//!     }
//! }
//! # mod my_store {
//! #     pub async fn connect(
//! #         _address: &str,
//! #     ) -> Result<std::sync::Arc<dyn brigade::store::JobStore>, brigade::Error> {
//! #         unimplemented!()
//! #     }
//! # }
//!
//! fn main() -> ExitCode {
//!     brigade_conformance::run(&[&MyStore])
//! }
//! ```
//!
//! Each case is a test of its own, under `cargo test` and nextest alike, named
//! `my_store::leases::a_lease_is_exclusive_and_an_ack_ends_it`: `cargo test --test conformance
//! leases` runs those of one file. A case that needs a capability which the store does not declare
//! is reported as ignored; run with `--include-ignored` to see which capability that is.
//!
//! # What it needs
//!
//! Linux, as all that runs workers: some cases run tasks in worker processes, which are this test
//! program again. [`run`] is the first thing that `main` calls, so that a worker gets no further.
//!
//! `BRIGADE_SEED` repeats the random cases of a run that printed it; `BRIGADE_FULL=1` runs more of
//! them.

mod case;
mod cases;
mod child_process;
mod log;
mod seed;
mod subject;
mod suite;
mod tested_store;

pub use suite::run;
pub use tested_store::{PlaceError, TestPlace, TestedStore};
