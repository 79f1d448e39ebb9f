//! A message, what it wants of its publisher, its outcome, and a request to publish it.
//!
//! | message | no queue takes it | its confirm is lost | outcome |
//! |---|---|---|---|
//! | job, copy of a held job | reported | sent again until its deadline, then it may have arrived | awaited |
//! | answer, call that goes on | reported | sent again until it is confirmed | awaited |
//! | call | reported | as a job | given to its owner, which may have ended it before it is sent |
//! | progress, cancel, roll call | it is dropped | as a job | ignored, or awaited |
//!
//! A message that the broker declines (a nack) is reported so after its first try. After a
//! further one it may have arrived.
//!
//! A request carries what its publisher needs: its policy, how often it was sent, whether the
//! broker has returned it. The ids of its message stay the same however often it is sent, so that
//! the process that takes it can drop a copy.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::ShortString;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::fault::AmqpFault;
use crate::error::{Error, ErrorKind};

/// What to publish, to the queue of that name by the default exchange. It has a message id, or, if
/// it is a call, a correlation id.
#[derive(Clone, Debug)]
pub(in super::super) struct Message {
    pub(in super::super) queue: ShortString,
    pub(in super::super) body: Bytes,
    pub(in super::super) properties: BasicProperties,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub(in super::super) enum Published {
    /// The broker has it, as safe as its queue makes it.
    Safe,
    /// The queue does not exist.
    Unroutable,
    /// The broker refused it for now.
    Declined,
    /// The broker did not take it; or, if that is uncertain, it may have.
    Failed { fault: AmqpFault, uncertain: bool },
}

impl Published {
    pub(in super::super) fn failed(fault: &AmqpFault, uncertain: bool) -> Self {
        Self::Failed {
            fault: fault.clone(),
            uncertain,
        }
    }

    /// The outcome of a message that was to follow this one, and was not sent.
    pub(in super::super) fn not_sent(self) -> Self {
        match self {
            Self::Failed { fault, .. } => Self::Failed {
                fault,
                uncertain: false,
            },
            other => other,
        }
    }

    /// The same for a caller that needs the message to be safe; `what` was being done.
    pub(in super::super) fn into_result(self, what: &str) -> Result<(), Error> {
        match self {
            Self::Safe => Ok(()),
            Self::Unroutable => Err(Error::new(
                ErrorKind::Unreachable,
                format!("{what}: the queue is not there"),
            )),
            Self::Declined => Err(AmqpFault::declined().into_error(what)),
            Self::Failed { fault, uncertain } => {
                let error = fault.into_error(what);
                Err(if uncertain { error.uncertain() } else { error })
            }
        }
    }
}

/// What a message wants of its publisher. A call site says only this.
#[derive(Clone, Default)]
pub(in super::super) struct PublishPolicy {
    /// The broker drops the message if no queue takes it, and does not return it.
    pub(in super::super) is_optional: bool,
    /// It ends as failed if it has no outcome by then. Without this it is published again until
    /// it has one.
    pub(in super::super) give_up_at: Option<Instant>,
    /// The broker drops it if it is not consumed by then.
    pub(in super::super) expires_at: Option<Instant>,
    /// Who decides about it, and the number by which the owner knows it.
    pub(in super::super) owner: Option<(Arc<dyn MessageOwner>, u64)>,
}

impl PublishPolicy {
    /// For a message that is to arrive by this moment.
    pub(in super::super) fn until(moment: Instant) -> Self {
        Self {
            give_up_at: Some(moment),
            ..Self::default()
        }
    }

    /// For a message that may be lost: it is dropped if no queue takes it.
    pub(in super::super) fn optional() -> Self {
        Self {
            is_optional: true,
            ..Self::default()
        }
    }
}

/// The owner of messages whose outcomes no task awaits.
pub(in super::super) trait MessageOwner: Send + Sync {
    /// Runs before a message is sent; takes it if it is not to go with the others.
    fn before_send(&self, number: u64, request: PublishRequest) -> Option<PublishRequest>;

    /// The outcome of a message is known, and its publisher does nothing more for it.
    fn on_outcome(&self, number: u64, request: PublishRequest, outcome: Published);
}

/// A message on its way, with what is to be done for it.
pub(in super::super) struct PublishRequest {
    pub(in super::super) message: Arc<Message>,
    /// The default exchange if empty.
    pub(in super::super) exchange: ShortString,
    pub(in super::super) policy: PublishPolicy,
    outcome: Option<oneshot::Sender<Published>>,
    /// How often it was published and may have arrived.
    pub(in super::super) tries: u32,
    /// The broker has returned it, and its confirm has not come yet.
    pub(super) is_returned: bool,
}

impl PublishRequest {
    pub(in super::super) fn new(message: impl Into<Arc<Message>>, policy: PublishPolicy) -> Self {
        Self {
            message: message.into(),
            exchange: "".into(),
            policy,
            outcome: None,
            tries: 0,
            is_returned: false,
        }
    }

    /// The same request once more; the outcome of this one is not that of the other.
    pub(in super::super) fn again(&self) -> Self {
        Self {
            exchange: self.exchange.clone(),
            ..Self::new(Arc::clone(&self.message), self.policy.clone())
        }
    }

    /// The same request, and the receiver of its outcome.
    pub(super) fn watched(self) -> (Self, oneshot::Receiver<Published>) {
        let (outcome, answered) = oneshot::channel();
        let outcome = Some(outcome);
        (Self { outcome, ..self }, answered)
    }

    /// The request, if it is to be sent with the others.
    pub(super) fn before_send(self) -> Option<Self> {
        match self.policy.owner.clone() {
            Some((owner, number)) => owner.before_send(number, self),
            None => Some(self),
        }
    }

    /// Nothing more is done for it.
    pub(super) fn finish(mut self, outcome: Published) {
        if let Some((owner, number)) = self.policy.owner.take() {
            owner.on_outcome(number, self, outcome);
        } else if let Some(waiting) = self.outcome {
            // The one that waited may be gone.
            waiting.send(outcome).ok();
        }
    }

    /// What the broker counts is the time from when it has the message.
    pub(in super::super) fn set_expiration(&mut self) {
        if let Some(at) = self.policy.expires_at {
            let left = at.saturating_duration_since(Instant::now()).as_millis();
            let message = Arc::make_mut(&mut self.message);
            message.properties =
                std::mem::take(&mut message.properties).with_expiration(left.to_string().into());
        }
    }

    /// It is about to be published.
    pub(super) fn begin(&mut self) {
        self.tries += 1;
        self.set_expiration();
    }

    /// Whether this is what the broker brought back.
    pub(super) fn is(&self, returned: &Delivery) -> bool {
        let (ours, theirs) = (&self.message.properties, &returned.properties);
        self.message.queue == returned.routing_key
            && ours.correlation_id() == theirs.correlation_id()
            && ours.message_id() == theirs.message_id()
    }
}
