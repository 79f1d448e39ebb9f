//! A framed connection between a pool and one worker, the pool's side.
//!
//! A [`Channel`] writes without a task in between: a sender appends its frame and, if the peer is
//! waiting for it, writes it at once. Under load the peer is busy, so appends pile up until the
//! channel's own write loop is polled and sends them in one system call. What is appended is sent
//! in order.
//!
//! Also here: the file of a Unix socket that listens, [`SocketFile`].

mod channel;
mod handover;
mod read;
mod socket_file;

pub(crate) use brigade_runtime::ready::readable;
pub(crate) use channel::Channel;
pub(crate) use handover::{receive_with_descriptor, send_with_descriptor};
pub(crate) use read::read_into;
pub(crate) use socket_file::SocketFile;
