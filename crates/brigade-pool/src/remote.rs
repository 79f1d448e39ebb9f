//! Workers on other hosts: they connect to a pool that listens, and serve calls as local workers
//! do.
//!
//! The pool listens, and any number of worker hosts join:
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
//! With [`Credentials`] both sides authenticate before they exchange anything else (`transport`).
//! Then `connection` carries messages over the stream: `send_queue` orders what goes out, and
//! `partial_messages` puts long messages together. The pool (`pool`) is on one side and the host
//! (`host`) on the other.

mod budget;
mod connection;
mod partial_messages;
mod send_queue;
#[doc(hidden)]
pub mod transport;

pub use transport::{Credentials, Identity, Peer, Pem, Refusals, generate_key};

pub use crate::host::{Host, HostHandle, serve};

use crate::error::Error;
use crate::wire::remote::RandomId;

pub(crate) use crate::printable::printable;
pub(crate) use budget::Budget;
pub(crate) use connection::{ConnectionEnd, FrameConnection, FrameHandler, Messages};
pub(crate) use send_queue::SendQueue;

/// A random id, unlike that of any other pool or session.
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
