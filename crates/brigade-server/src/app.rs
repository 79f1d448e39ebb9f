//! [`App`]: what every handler has.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use brigade::Broker;
use tokio_util::task::TaskTracker;

use crate::auth::{FailedLogins, Sessions};
use crate::counters::{CounterSums, RequestCounter};
use crate::http_consumers::HttpConsumers;
use crate::options::ServerOptions;
use crate::problem::Problem;
use crate::values::Seconds;

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
            options,
            sessions: Sessions::default(),
            failures: FailedLogins::default(),
            sums: CounterSums::new(),
            requests: RequestCounter::default(),
        }))
    }

    /// How long a request asks to wait, within the limit of the server.
    pub(crate) fn wait(&self, asked: Option<Seconds>) -> Result<Duration, Problem> {
        let (wait, most) = (
            asked.map_or(Duration::ZERO, |wait| wait.0),
            self.options.wait_max,
        );
        if wait > most {
            let text = format!("`wait` is {wait:?}, and this server waits for {most:?} at most");
            return Err(Problem::bad_request(text));
        }
        Ok(wait)
    }
}

impl Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}
