//! The commands around queues as a user runs them: the binary, on job files of its own.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "starts the binary under test and waits for facts of the operating system"
)]

mod cron;
mod desk;
mod escapes;
mod guard;
mod key;
mod kill;
mod limits;
mod look;
mod manager;
mod migrate;
mod push;
mod rabbitmq;
mod sandbox;
mod signals;
mod times;
mod url;
mod work;
