//! [`App`]: what every handler has.

use std::ops::Deref;
use std::sync::Arc;

use brigade::{Broker, Error, ErrorKind};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::auth::{FailedLogins, Sessions};
use crate::counters::{CounterSums, RequestCounter};
use crate::http_consumers::HttpConsumers;
use crate::options::ServerOptions;
use crate::queue_sets::QueueSets;

/// The broker and the options, shared by all handlers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<AppParts>);

/// What [`App`] shares.
pub(crate) struct AppParts {
    pub(crate) broker: Broker,
    pub(crate) options: ServerOptions,
    pub(crate) sessions: Sessions,
    pub(crate) failures: FailedLogins,
    pub(crate) sums: CounterSums,
    pub(crate) requests: RequestCounter,
    pub(crate) http_consumers: Arc<HttpConsumers>,
    pub(crate) queue_sets: QueueSets,
    /// Room for requests that wait.
    pub(crate) waits: Arc<Semaphore>,
    /// Requests to the broker that go on when their client is gone, to give back what they got; of
    /// the options, so that a server can wait for them.
    pub(crate) tasks: TaskTracker,
}

impl App {
    pub(crate) fn new(broker: Broker, options: ServerOptions) -> Self {
        let (tasks, stop) = (options.tasks.clone(), options.stop.clone());
        Self(Arc::new(AppParts {
            http_consumers: HttpConsumers::new(broker.clone(), tasks, stop),
            broker,
            tasks: options.tasks.clone(),
            waits: Arc::new(Semaphore::new(options.waits_max)),
            options,
            sessions: Sessions::default(),
            failures: FailedLogins::default(),
            sums: CounterSums::new(),
            requests: RequestCounter::default(),
            queue_sets: QueueSets::default(),
        }))
    }

    /// Takes note of an error of the broker: whether it is the end of the connection for good.
    pub(crate) fn note(&self, error: &Error) {
        if error.kind() == ErrorKind::Closed {
            self.options.ended.cancel();
        }
    }
}

impl Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}
