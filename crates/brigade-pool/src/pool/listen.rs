//! Listening for hosts that join.

use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::builder::Builder;
use super::shared::Shared;
use super::worker_conn::remote_host::arrival;
use crate::remote::transport::Listener;
use crate::remote::{Credentials, Refusals};

/// For results that are still coming, of all hosts together; one host may go beyond it by four
/// results of the longest kind.
pub(super) const PARTIAL_BYTES_MAX: usize = 256 << 20;

impl Builder {
    /// Lets workers of other hosts join ([`remote::serve`](crate::remote::serve)) at
    /// `tcp://host:port`, `tls://host:port` or `unix:///path`, with the same credentials. May be
    /// given several times, and with [`workers(0)`](Builder::workers) there are no others. With
    /// port 0 the system chooses one: [`Pool::listening`].
    ///
    /// A call goes only to where its task is, and its [labels](brigade_core::Call::labels); one
    /// that no worker can take yet waits for one that can, at most for its [queue
    /// timeout](brigade_core::Call::queue_timeout).
    pub fn listen(self, url: impl Into<String>, credentials: Credentials) -> Self {
        self.set(|config| config.hosts.listeners.push((url.into(), credentials)))
    }

    /// How often a host and the pool tell each other that they are there. A connection of which
    /// nothing is heard four times in a row counts as gone. Default: 1 s; 10 ms to 1 hour.
    pub fn heartbeat(self, interval: Duration) -> Self {
        self.set(|config| config.hosts.beat = interval)
    }

    /// How long a host may be away, its connection down, before what it ran ends as
    /// [`Lost`](brigade_core::CallError::Lost), or is run elsewhere if its task is `idempotent`.
    /// The host stops it after the same time. Default: 30 s; from one heartbeat to a year.
    pub fn lost_after(self, time: Duration) -> Self {
        self.set(|config| config.hosts.keep = time)
    }
}

impl Pool {
    /// Where the pool listens for hosts, with the ports that the system chose, in the order in
    /// which they were asked for.
    pub fn listening(&self) -> Vec<String> {
        self.shared().listening.clone()
    }

    /// How many connections were not let in, of all listeners: they proved nothing, or the wrong
    /// thing. Hosts that proved themselves and were turned away for another reason are
    /// [events](brigade_core::Event::HostRefused).
    pub fn refusals(&self) -> Refusals {
        self.shared()
            .refusals
            .iter()
            .fold(Refusals::default(), |all, one| all.plus(&one.get()))
    }
}

/// Lets in who may, until the pool closes.
pub(super) async fn open(shared: Arc<Shared>, mut listener: Listener) {
    loop {
        let peer = listener.accept().await;
        shared
            .scope
            .spawn(arrival::receive(Arc::clone(&shared), peer));
    }
}
