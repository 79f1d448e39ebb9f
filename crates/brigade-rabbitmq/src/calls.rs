//! Calls from this process: requests out, answers in.
//!
//! All calls of a broker share one queue for their answers, distinguished by correlation ids. The
//! queue has a name of its own and is durable, neither exclusive nor RabbitMQ's direct reply-to:
//! both of those are gone with the connection, and the answers with them, while this one waits for
//! us to be back; unused for [`ANSWERS_EXPIRE`], the broker removes it. Answers are acked, so one
//! that was on its way when a connection broke comes again.
//!
//! Requests and answers are transient: written to disk, a call costs the broker twice as much. So a
//! restart of the broker loses them, and then every call that was sent ends as uncertain, also one
//! whose confirm has not come: it may have run, and its answer been lost, and its worker would drop
//! the same request. A restart is distinguished from a connection that broke by a transient message
//! in a durable queue of ours that has no consumer (`alive`): after a restart it is gone.
//! With `calls=durable` all is persistent and outlives it.
//!
//! A call ends in exactly one way: the code that takes its entry out of `open` ends it. What comes
//! for a call without an entry is late, and counted.

mod listening;
mod waiting;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::waiting::Waiting;
use super::checks::TIME_MAX;
use super::fault::Fault;
use super::headers::{BEGUN, TELL, WAITS};
use super::link::{Link, LiveConnection};
use super::message::Envelope;
use super::publisher::{ConfirmPublisher, Message, PublishPolicy, PublishRequest, Published};
use super::store::Storage;
use super::topology::QueueKind;
use super::url::RabbitMqConfig;
use super::values::{random_id, text};
use super::{RabbitMqCore, control};
use crate::error::{Error, ErrorKind};
use crate::job::JobId;
use crate::outcome::CallError;
use crate::sync::lock;
use brigade_core::store::{CallCounts, CallResult, CallerLink, DirectCall};

/// How often a queue that does not exist is declared for one call.
const RETURNS_MAX: u32 = 4;
pub(super) struct Calls {
    this: Weak<Self>,
    storage: Arc<Storage>,
    /// What takes answers.
    link: Link,
    config: Arc<RabbitMqConfig>,
    publisher: ConfirmPublisher,
    /// Where answers go.
    answers: ShortString,
    /// Where a message lies that a restart of the broker takes.
    alive: ShortString,
    /// It has been put there.
    is_marked: AtomicBool,
    /// In front of the numbers in our correlation ids.
    prefix: Box<str>,
    next: AtomicU64,
    open: Mutex<HashMap<u64, OpenCall>>,
    late: AtomicU64,
    foreign: AtomicU64,
}

type Outcome = Result<Bytes, CallError>;

/// A call that has not ended.
struct OpenCall {
    teller: oneshot::Sender<Outcome>,
    caller: Arc<CallerLink>,
    /// The broker may have it.
    sent: bool,
    /// A worker has it.
    begun: bool,
    returns: u32,
}

impl Calls {
    /// With the links that publish and that take. It starts with the first call: a program that
    /// makes none needs no queue.
    fn start(core: &Arc<RabbitMqCore>) -> Arc<Self> {
        let RabbitMqCore {
            storage,
            consume_link: leases,
            config,
            scope,
            ..
        } = &**core;
        let (publisher, inbox) = ConfirmPublisher::new();
        let id = random_id();
        let calls = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            storage: Arc::clone(storage),
            link: leases.clone(),
            config: Arc::clone(config),
            publisher,
            answers: config.name_of(&format!("brigade-answers.{id}")).into(),
            alive: config.name_of(&format!("brigade-alive.{id}")).into(),
            is_marked: AtomicBool::new(false),
            prefix: format!("{id}-").into(),
            next: AtomicU64::new(1),
            open: Mutex::default(),
            late: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        });
        scope.spawn_until_closed(Arc::clone(&calls).listen());
        inbox.start(Arc::clone(&calls), config, &storage.out, scope);
        let (until, ending) = (scope.clone(), Arc::downgrade(&calls));
        scope.spawn(async move {
            until.closed().await;
            if let Some(calls) = ending.upgrade() {
                calls.end_all();
            }
        });
        calls
    }

    /// The broker was dropped, so no answer will be received.
    fn end_all(&self) {
        for open in std::mem::take(&mut *lock(&self.open)).into_values() {
            let error =
                Error::new(ErrorKind::Closed, "make a call: the broker was dropped").uncertain();
            // The receiver may be gone.
            open.teller.send(Err(error.into())).ok();
        }
    }

    /// Notes a call that is about to be made.
    fn begin(self: &Arc<Self>, caller: &Arc<CallerLink>) -> (Waiting, oneshot::Receiver<Outcome>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (teller, told) = oneshot::channel();
        lock(&self.open).insert(
            number,
            OpenCall {
                teller,
                caller: Arc::clone(caller),
                sent: false,
                begun: false,
                returns: 0,
            },
        );
        (
            Waiting {
                calls: Arc::clone(self),
                number,
                queue: "".into(),
            },
            told,
        )
    }

    fn request(&self, call: &DirectCall, number: u64) -> Envelope {
        let id = self.id_of(number);
        let mut envelope = Envelope::new(JobId::new(id.as_str()), call.job.clone());
        let mut headers = FieldTable::default();
        if call.queue_timeout.is_some() {
            headers.insert(TELL.into(), text(BEGUN));
        }
        if call.waits_out_passes {
            headers.insert(WAITS.into(), AMQPValue::Boolean(true));
        }
        envelope.properties = BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to(self.answers.clone());
        if !headers.inner().is_empty() {
            envelope.properties = std::mem::take(&mut envelope.properties).with_headers(headers);
        }
        envelope
    }

    fn id_of(&self, number: u64) -> String {
        let mut id = String::with_capacity(self.prefix.len() + 20);
        id.push_str(&self.prefix);
        // Writing to a string does not fail.
        write!(id, "{number}").ok();
        id
    }

    fn number_of(&self, properties: &BasicProperties) -> Option<u64> {
        properties
            .correlation_id()
            .as_ref()?
            .as_str()
            .strip_prefix(&*self.prefix)?
            .parse()
            .ok()
    }

    /// How many calls are open, and what came for none.
    pub(super) fn counts(&self) -> CallCounts {
        CallCounts {
            open: lock(&self.open).len(),
            late: self.late.load(Ordering::Relaxed),
            foreign: self.foreign.load(Ordering::Relaxed),
        }
    }

    pub(super) fn end(&self, number: u64, outcome: Outcome) {
        let open = lock(&self.open).remove(&number);
        match open {
            // The receiver may be gone.
            Some(open) => drop(open.teller.send(outcome)),
            None => {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A call waits for its worker, so there has to be a queue to wait in.
    fn declare_and_send(&self, request: PublishRequest) {
        let (number, Some(calls)) = (request.number, self.this.upgrade()) else {
            return;
        };
        let returns = lock(&self.open).get_mut(&number).map(|open| {
            open.returns += 1;
            open.returns
        });
        let Some(returns) = returns else { return };
        let queue = request.message.queue.clone();
        if returns > RETURNS_MAX {
            let why = format!(
                "make a call: the queue {:?} does not exist, and cannot be declared",
                queue.as_str()
            );
            return self.end(number, Err(Error::new(ErrorKind::Unreachable, why).into()));
        }
        self.storage.scope.spawn_until_closed(async move {
            let target = QueueKind::Jobs(calls.config.queue_of(queue.as_str()).into());
            match calls.storage.topology.declare(&target).await {
                Err(fault) if fault.is_lasting() => {
                    calls.end(number, Err(fault.into_error("make a call").into()));
                }
                // One that was lost with its connection is tried again when the request is
                // returned.
                Ok(()) | Err(_) => calls.publisher.send(request).await,
            }
        });
    }

    /// Whether no worker serves a queue, as far as is known.
    async fn nobody_serves(&self, queue: &ShortString) -> bool {
        let asking = async {
            let connection = self.link.connection().await?;
            let channel = connection.channel().await?;
            connection.consumer_count(&channel, queue).await
        };
        asking.await.is_ok_and(|count| count == 0)
    }
}

impl PublishPolicy for Calls {
    // What a restart took is to be noticed on each connection.
    const EAGER: bool = true;

    async fn prepare(&self, connection: &LiveConnection) -> Result<(), Fault> {
        let channel = connection.channel().await?;
        self.declare_answers(connection, &channel).await?;
        self.look_for_restart(connection).await?;
        control::declare(connection).await;
        Ok(())
    }

    fn before_send(&self, request: PublishRequest) -> Option<PublishRequest> {
        let number = request.number;
        if number == 0 {
            return Some(request);
        }
        // A call that has ended meanwhile is not made.
        lock(&self.open).get_mut(&number)?.sent = true;
        let calls = self.this.clone();
        self.storage
            .take_first_call(request, move |request, stored| {
                if let (Some(calls), Err(error)) =
                    (calls.upgrade(), stored.into_result("make a call"))
                {
                    let was_sent = request.tries > 0;
                    let error = if was_sent { error.uncertain() } else { error };
                    calls.end(number, Err(error.into()));
                }
            })
    }

    fn on_outcome(
        &self,
        request: PublishRequest,
        outcome: Published,
        _: bool,
    ) -> Option<PublishRequest> {
        // A cancel that does not get through is as if it was not made.
        if request.number == 0 {
            return None;
        }
        match outcome {
            Published::Safe => {}
            Published::Unroutable => self.declare_and_send(request),
            other => {
                if let Err(error) = other.into_result("make a call") {
                    self.end(request.number, Err(error.into()));
                }
            }
        }
        None
    }
}

impl RabbitMqCore {
    fn calls(self: &Arc<Self>) -> &Arc<Calls> {
        self.calls.get_or_init(|| Calls::start(self))
    }

    /// Makes a call; the request is on its way when this returns.
    pub(super) fn call(self: &Arc<Self>, call: DirectCall) -> CallResult {
        let calls = self.calls();
        let until = call
            .queue_timeout
            .map(|wait| (wait, Instant::now() + wait.min(TIME_MAX)));
        let (mut waiting, told) = calls.begin(&call.caller);
        let delay = call.job.options.delay.unwrap_or_default();
        let message = self.storage.check(&call.job).and_then(|()| {
            self.storage
                .message(calls.request(&call, waiting.number), delay)
        });
        let (target, message) = match message {
            Ok(message) => message,
            Err(error) => {
                // Nothing of it has left.
                lock(&calls.open).remove(&waiting.number);
                return Box::pin(ready(Err(error.into())));
            }
        };
        let queue = QueueKind::Jobs(call.job.queue.clone());
        waiting.queue = self.storage.topology.name(&queue).into();
        let left = if let QueueKind::Later(..) = target {
            self.call_later(waiting.number, (target, message));
            None
        } else {
            let mode = if self.config.durable_calls { 2 } else { 1 };
            let message = Message {
                properties: message.properties.with_delivery_mode(mode),
                ..message
            };
            let request = PublishRequest::new(message)
                .numbered(waiting.number)
                .give_up_at(Instant::now() + self.config.answer_timeout)
                .expires_at(until.map(|(_, until)| until));
            calls.publisher.try_send(request).err()
        };
        Box::pin(async move {
            if let Some(request) = left {
                waiting.calls.publisher.send(*request).await;
            }
            waiting.answer(told, until, &call.caller).await
        })
    }

    fn call_later(self: &Arc<Self>, number: u64, message: (QueueKind, Message)) {
        let core = Arc::clone(self);
        self.scope.spawn_until_closed(async move {
            if let Some(Err(error)) = core
                .storage
                .store(vec![message])
                .await
                .pop()
                .map(|stored| stored.into_result("make a call"))
            {
                core.calls().end(number, Err(error.into()));
            }
        });
    }
}
