//! Cancels of calls, on their way to whichever process runs them.
//!
//! One direct exchange of the vhost, `brigade.control`. Every process that serves has an exclusive
//! queue at it, bound by the names of the queues that it serves; a cancel is published with the
//! name of its call's queue, so all who may have the call hear of it. Body: the reason. A cancel
//! that is lost, because a connection broke, is as if it was not made: the call runs to its end,
//! and its answer is dropped.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, ExchangeKind};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::fault::AmqpFault;
use super::link::{Link, LiveConnection};
use super::publisher::{Message, PublishPolicy, PublishRequest};
use super::values::{table, text, text_of};
use crate::error::ErrorKind;

pub(super) const EXCHANGE: &str = "brigade.control";
/// The header with the correlation id of the call that is to be cancelled.
const CANCEL: &str = "brigade-cancel";

/// Bindings that are made together.
const BINDINGS: usize = 128;
/// Far longer than it takes to bind a queue.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// A cancel of a call.
pub(super) fn cancel(
    queue: &ShortString,
    correlation_id: &str,
    reason: &str,
    until: Instant,
) -> PublishRequest {
    let headers = table([(CANCEL, text(correlation_id))]);
    let properties = BasicProperties::default().with_headers(headers);
    let message = Message {
        queue: queue.clone(),
        body: reason.as_bytes().to_vec().into(),
        properties,
    };
    let policy = PublishPolicy {
        give_up_at: Some(until),
        ..PublishPolicy::optional()
    };
    let mut request = PublishRequest::new(message, policy);
    request.exchange = EXCHANGE.into();
    request
}

/// Makes the exchange if it is not there. Without the right to do so, calls cannot be cancelled
/// once they run; all else goes on.
pub(super) async fn declare(connection: &LiveConnection) {
    let declaring = async {
        let channel = connection.channel().await?;
        connection
            .declare_exchange(&channel, EXCHANGE, ExchangeKind::Direct)
            .await
    };
    if let Err(fault) = declaring.await {
        tracing::warn!(%fault, "cannot declare the exchange {EXCHANGE}: calls that run cannot be \
            cancelled");
    }
}

/// The queues that this process serves: those whose cancels it hears.
pub(super) struct ServedQueues {
    wanted: watch::Sender<BTreeSet<ShortString>>,
    /// Whose cancels are heard now; `None` if they cannot be heard, which is no reason not to
    /// serve.
    heard: watch::Sender<Option<BTreeSet<ShortString>>>,
}

impl ServedQueues {
    pub(super) fn new() -> Self {
        Self {
            wanted: watch::Sender::default(),
            heard: watch::Sender::new(Some(BTreeSet::new())),
        }
    }

    pub(super) fn add(&self, queue: &ShortString) {
        self.wanted
            .send_if_modified(|served| !served.contains(queue) && served.insert(queue.clone()));
    }

    pub(super) fn remove(&self, queue: &ShortString) {
        self.wanted.send_if_modified(|served| served.remove(queue));
    }

    pub(super) fn contains(&self, queue: &str) -> bool {
        self.wanted.borrow().contains(queue)
    }

    pub(super) fn names(&self) -> BTreeSet<ShortString> {
        self.wanted.borrow().clone()
    }

    /// Waits, bounded, until cancels for this queue are heard: before anything is taken from it.
    pub(super) async fn is_heard(&self, queue: &ShortString) {
        let mut heard = self.heard.subscribe();
        let is_so = heard.wait_for(|heard| {
            let queues = heard.as_ref();
            queues.is_none_or(|queues| queues.contains(queue))
        });
        drop(timeout(HEARD_WITHIN, is_so).await);
    }

    /// Hears of cancels for as long as the broker is there: gives each correlation id, with the
    /// reason.
    pub(super) async fn hear(&self, link: &Link, on_cancel: impl Fn(&str, String)) {
        let mut wanted = self.wanted.subscribe();
        // Most programs serve nothing.
        if wanted.wait_for(|wanted| !wanted.is_empty()).await.is_ok() {
            let hear = async |connection: LiveConnection| {
                self.heard.send_replace(Some(BTreeSet::new()));
                let served = self.wanted.subscribe();
                let ended = hear_on(&connection, served, &self.heard, &on_cancel).await;
                if ended.as_ref().is_err_and(|fault| !fault.is_lost()) {
                    self.heard.send_replace(None);
                }
                ended
            };
            link.on_each_connection("hear of cancels", hear, |_| {})
                .await;
        }
    }
}

async fn hear_on(
    connection: &LiveConnection,
    mut served: watch::Receiver<BTreeSet<ShortString>>,
    heard: &watch::Sender<Option<BTreeSet<ShortString>>>,
    on_cancel: &impl Fn(&str, String),
) -> Result<(), AmqpFault> {
    declare(connection).await;
    let channel = connection.channel().await?;
    let (queue, mut cancels) = connection.own_queue(&channel).await?;
    let mut bindings = Bindings {
        connection,
        channel,
        queue,
        bound: BTreeSet::new(),
    };
    loop {
        let wanted = served.borrow_and_update().clone();
        bindings.change_to(wanted, heard).await?;
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return Ok(()) },
            cancel = cancels.next() => {
                let gone = || AmqpFault::new(ErrorKind::Unreachable, "its queue is gone");
                let cancel = cancel.ok_or_else(gone)??;
                let headers = cancel.properties.headers().as_ref();
                if let Some(id) = headers.and_then(|headers| text_of(headers, CANCEL)) {
                    on_cancel(&id, String::from_utf8_lossy(&cancel.data).into_owned());
                }
            }
        }
    }
}

/// What the queue of cancels is bound to.
struct Bindings<'a> {
    connection: &'a LiveConnection,
    channel: Channel,
    queue: ShortString,
    bound: BTreeSet<ShortString>,
}

impl Bindings<'_> {
    /// Many at a time, as a consumer may serve thousands of queues; those are heard of first that
    /// are bound first.
    async fn change_to(
        &mut self,
        wanted: BTreeSet<ShortString>,
        heard: &watch::Sender<Option<BTreeSet<ShortString>>>,
    ) -> Result<(), AmqpFault> {
        let new: Vec<ShortString> = wanted.difference(&self.bound).cloned().collect();
        for keys in new.chunks(BINDINGS) {
            let binding = keys.iter().map(|key| {
                self.connection
                    .bind(&self.channel, &self.queue, EXCHANGE, key.clone())
            });
            try_join_all(binding).await?;
            self.bound.extend(keys.iter().cloned());
            heard.send_modify(|heard| {
                heard.get_or_insert_default().extend(keys.iter().cloned());
            });
        }
        let old: Vec<ShortString> = self.bound.difference(&wanted).cloned().collect();
        for key in &old {
            let unbinding = self.channel.queue_unbind(
                self.queue.clone(),
                EXCHANGE.into(),
                key.clone(),
                FieldTable::default(),
            );
            self.connection.answer(unbinding).await?;
        }
        if !old.is_empty() {
            self.bound.clone_from(&wanted);
            heard.send_replace(Some(wanted));
        }
        Ok(())
    }
}
