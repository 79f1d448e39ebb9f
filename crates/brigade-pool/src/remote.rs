//! Workers on other hosts: they connect to a pool that listens, and are links like local ones.
//!
//! The master listens, any number of worker hosts join:
//!
//! ```no_run
//! # use brigade::{Pool, remote::Credentials};
//! # async fn run() -> Result<(), brigade::Error> {
//! let credentials = Credentials::key_file("brigade.key")?;
//! let fleet = Pool::builder().workers(0).listen("tcp://127.0.0.1:7000", credentials).start().await?;
//! fleet.ready(2).await?; // until two hosts are there
//! # Ok(()) }
//! ```
//!
//! A worker host is any program that has the tasks:
//!
//! ```no_run
//! # use brigade::remote::{self, Credentials};
//! # async fn run() -> Result<(), brigade::Error> {
//! remote::serve("tcp://127.0.0.1:7000", Credentials::key_file("brigade.key")?).workers(4).slots(10).labels(["gpu"]).run().await
//! # }
//! ```
//!
//! [`Credentials`] are what both sides show each other before anything else is said. What is said
//! then is the business of `line`, `inbox` and `outbox` here, of `pool` on one side and of `host`
//! on the other.

mod budget;
mod connection;
mod inbox;
mod outbox;
#[doc(hidden)]
pub mod transport;

pub use transport::{Credentials, Identity, Peer, Pem, Refusals, generate_key};

pub use crate::host::{Host, HostHandle, serve};

use crate::error::Error;
use crate::wire::remote::RandomId;

pub(crate) use crate::printable::printable;
pub(crate) use budget::Budget;
pub(crate) use connection::{ConnectionEnd, FrameConnection, FrameHandler, Messages};
pub(crate) use outbox::SendQueue;

/// A number that no other pool or session has.
pub(crate) fn random_id() -> Result<RandomId, Error> {
    let mut mark = RandomId::default();
    let os = |e| Error::os("draw a random number", e);
    let drawn =
        rustix::rand::getrandom(&mut mark, rustix::rand::GetRandomFlags::empty()).map_err(os)?;
    debug_assert_eq!(
        drawn,
        mark.len(),
        "so few bytes come at once (getrandom(2))"
    );
    Ok(mark)
}
