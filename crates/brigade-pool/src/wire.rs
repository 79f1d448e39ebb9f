//! The wire protocol between a pool and a worker: frames and messages, no IO.
//!
//! Two byte streams: *data* carries calls and what attempts say, *control* carries the handshake,
//! stops and signs of life, so that neither waits behind the other. Both use the same frame. The
//! protocol is versioned in the handshake; `docs/wire-protocol.md` describes every frame. Hosts
//! that join a pool have messages of their own (`remote`), in the same frame.
//!
//! When a message changes: raise [`VERSION`], change `docs/wire-protocol.md` and the test vectors
//! below it.

mod frame;
mod log;
mod message;
#[cfg(feature = "remote")]
pub(crate) mod remote;

pub(crate) use frame::{Decoder, Frame, HEADER_BYTES, encode};
pub(crate) use log::{FIELDS_MAX, LogEvent, LogRecord, LogValue, NAME_BYTES_MAX, VALUE_BYTES_MAX};
pub(crate) use message::{
    CallMeta, CancelFrame, CrashNote, Hello, HookCall, PanicNote, Ready, RunTarget, StartFailed,
    TaskDefaults, WorkerSettings, kind,
};

/// Version of the protocol. Peers of another version refuse each other in the handshake.
pub(crate) const VERSION: u16 = 6;

/// First field of the handshake, so that a stray peer is not taken for an old version.
pub(crate) const MAGIC: [u8; 4] = *b"BRGD";
