//! The policy of a publisher: what follows from the outcome of a request.
//!
//! The decision belongs to the part that published it: a push reports its outcome and is over, a
//! request of a call whose queue does not exist has it declared and is published again, an answer
//! waits for its caller's queue.

use std::future::Future;

use super::super::fault::AmqpFault;
use super::super::link::LiveConnection;
use super::request::{PublishRequest, Published};

/// What is done with the requests of one publisher.
pub(in super::super) trait PublishPolicy: Send + Sync + 'static {
    /// Whether a channel is opened on each connection, also if there is nothing to publish.
    const EAGER: bool;

    /// Runs on each new channel, before anything is published by it.
    fn prepare(
        &self,
        connection: &LiveConnection,
    ) -> impl Future<Output = Result<(), AmqpFault>> + Send;

    /// Runs before a request is sent; takes it if it is not to go with the others.
    fn before_send(&self, request: PublishRequest) -> Option<PublishRequest>;

    /// The request to publish next: this one, or another in its place. It may pause if
    /// `may_pause`.
    fn on_outcome(
        &self,
        request: PublishRequest,
        outcome: Published,
        may_pause: bool,
    ) -> Option<PublishRequest>;
}

/// Reports each outcome to the receiver of the request, and does nothing else.
pub(super) struct ReportOutcome;

impl PublishPolicy for ReportOutcome {
    const EAGER: bool = false;

    async fn prepare(&self, _: &LiveConnection) -> Result<(), AmqpFault> {
        Ok(())
    }

    fn before_send(&self, request: PublishRequest) -> Option<PublishRequest> {
        Some(request)
    }

    fn on_outcome(
        &self,
        mut request: PublishRequest,
        outcome: Published,
        _: bool,
    ) -> Option<PublishRequest> {
        request.finish(outcome);
        None
    }
}
