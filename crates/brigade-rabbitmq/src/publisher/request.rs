//! A message, its outcome, and a request to publish it.
//!
//! A request carries what its publisher needs: its deadline, how often it was sent, whether the
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

/// A message on its way, with what is to be done for it.
pub(in super::super) struct PublishRequest {
    pub(in super::super) message: Arc<Message>,
    /// The default exchange if empty.
    pub(in super::super) exchange: ShortString,
    /// Dropped by the broker if no queue takes it, not returned.
    pub(in super::super) is_optional: bool,
    /// By which its policy knows it; 0 if it need not.
    pub(in super::super) number: u64,
    outcome: Option<oneshot::Sender<Published>>,
    /// It ends as failed if it has no outcome by then. Without this it is published again until
    /// it has one.
    pub(in super::super) give_up_at: Option<Instant>,
    /// The broker drops it if it is not consumed by then.
    pub(in super::super) expires_at: Option<Instant>,
    /// How often it was published and may have arrived.
    pub(in super::super) tries: u32,
    /// The broker has returned it, and its confirm has not come yet.
    pub(super) is_returned: bool,
}

impl PublishRequest {
    pub(in super::super) fn new(message: impl Into<Arc<Message>>) -> Self {
        Self {
            message: message.into(),
            exchange: "".into(),
            is_optional: false,
            number: 0,
            outcome: None,
            give_up_at: None,
            expires_at: None,
            tries: 0,
            is_returned: false,
        }
    }

    /// The same request once more; the outcome of this one is not that of the other.
    pub(in super::super) fn again(&self) -> Self {
        Self {
            exchange: self.exchange.clone(),
            is_optional: self.is_optional,
            give_up_at: self.give_up_at,
            expires_at: self.expires_at,
            ..Self::new(Arc::clone(&self.message))
        }
    }

    /// The same request, and the receiver of its outcome.
    pub(super) fn watched(self) -> (Self, oneshot::Receiver<Published>) {
        let (outcome, answered) = oneshot::channel();
        let outcome = Some(outcome);
        (Self { outcome, ..self }, answered)
    }

    /// Nothing more is done for it.
    pub(super) fn finish(self, outcome: Published) {
        if let Some(waiting) = self.outcome {
            // The one that waited may be gone.
            waiting.send(outcome).ok();
        }
    }

    /// What the broker counts is the time from when it has the message.
    pub(in super::super) fn set_expiration(&mut self) {
        if let Some(at) = self.expires_at {
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
