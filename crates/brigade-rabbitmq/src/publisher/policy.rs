//! What the owner of a publisher decides about its requests.
//!
//! `()` is the policy of a publisher that only reports outcomes. The maker of calls has another
//! one: it sees each channel before anything is published by it, and does not send calls that have
//! ended.

use std::future::Future;

use super::super::fault::AmqpFault;
use super::super::link::LiveConnection;
use super::request::{PublishRequest, Published};

pub(in super::super) trait PublishPolicy: Send + Sync + 'static {
    /// Whether a channel is opened on each connection, also if there is nothing to publish.
    const EAGER: bool = false;

    /// Runs on each new channel, before anything is published by it.
    fn prepare(&self, _: &LiveConnection) -> impl Future<Output = Result<(), AmqpFault>> + Send {
        async { Ok(()) }
    }

    /// Runs before a request is sent; takes it if it is not to go with the others.
    fn before_send(&self, request: PublishRequest) -> Option<PublishRequest> {
        Some(request)
    }

    /// The outcome of a request is known, and its publisher does nothing more for it.
    fn on_outcome(&self, request: PublishRequest, outcome: Published) {
        request.finish(outcome);
    }
}

impl PublishPolicy for () {}
