//! The HTTP API as programs use it: `brigade serve` on a free port, and a client.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "starts the binary under test, and threads that wait for it"
)]

mod access;
mod bounds;
mod calls;
mod certificate;
mod client;
mod consumers;
mod document;
mod doors;
mod ends;
mod events;
mod faults;
mod health;
mod jobs;
mod push;
mod queues;
mod schemathesis;
mod tokens;
mod traces;
mod work;
