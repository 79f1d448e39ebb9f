//! A connection that is made again when it broke.
//!
//! A request is never sent twice: a caller that had one under way gets an error that says it is
//! uncertain. Only what the server said it did not do is asked again, by
//! [`Nodes`](super::nodes::Nodes).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use redis::Value;
use tokio::time::sleep;

use super::fault::RedisFault;
use super::reach::{Connection, Reach, Target};
use crate::retry::jitter;
use crate::sync::lock;

/// A server that could not be reached is not tried again by callers that have other servers to turn
/// to, for this long.
const AWAY: Duration = Duration::from_secs(1);
/// Before each further try to connect; then the call ends as unreachable, and the next one begins
/// again.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
];

type Making<T> = Shared<Pin<Box<dyn Future<Output = Result<T, RedisFault>> + Send>>>;

/// Something that is made when it is needed, by one for all who wait for it, and again once it is
/// found to be no good.
pub(super) struct Renewed<T>(Mutex<(u64, Option<Making<T>>)>);

impl<T> Default for Renewed<T> {
    fn default() -> Self {
        Self(Mutex::new((0, None)))
    }
}

impl<T: Clone> Renewed<T> {
    /// Gives it with its number. What cannot be made is forgotten, after all who wait have heard
    /// why. Cancel safe.
    pub(super) async fn get<F>(&self, make: impl FnOnce() -> F) -> Result<(u64, T), RedisFault>
    where
        F: Future<Output = Result<T, RedisFault>> + Send + 'static,
    {
        let (number, making) = {
            let mut state = lock(&self.0);
            let number = state.0;
            let making = state.1.get_or_insert_with(|| {
                let making: Pin<Box<dyn Future<Output = Result<T, RedisFault>> + Send>> =
                    Box::pin(make());
                making.shared()
            });
            (number, making.clone())
        };
        let made = making.await;
        if made.is_err() {
            self.forget(number);
        }
        made.map(|made| (number, made))
    }

    /// What was made, if it is there at this moment.
    pub(super) fn peek(&self) -> Option<T> {
        let state = lock(&self.0);
        state.1.as_ref()?.peek()?.as_ref().ok().cloned()
    }

    /// Has it made again, unless another caller said so already.
    pub(super) fn forget(&self, number: u64) {
        let mut state = lock(&self.0);
        if state.0 == number {
            *state = (number + 1, None);
        }
    }
}

pub(super) struct Line {
    reach: Arc<Reach>,
    target: Target,
    connection: Renewed<Connection>,
    /// Until when the server is taken to be away, since the last request failed.
    away: Mutex<Option<Instant>>,
}

impl Line {
    pub(super) fn new(reach: Arc<Reach>, target: Target) -> Self {
        Self {
            reach,
            target,
            connection: Renewed::default(),
            away: Mutex::default(),
        }
    }

    /// Whether the last request could not reach the server, and nothing has reached it since.
    pub(super) fn is_away(&self) -> bool {
        lock(&self.away).is_some()
    }

    /// Whether it is time to try a server that is away again; says so to one caller.
    pub(super) fn is_to_be_tried(&self) -> bool {
        let mut away = lock(&self.away);
        match &mut *away {
            Some(until) if *until <= Instant::now() => {
                *until = Instant::now() + AWAY;
                true
            }
            _ => false,
        }
    }

    /// Connects, if it is not connected.
    pub(super) async fn try_again(&self) {
        let opened = self
            .connection
            .get(|| open(Arc::clone(&self.reach), self.target.clone()))
            .await;
        self.note(opened.as_ref().err());
    }

    fn note(&self, fault: Option<&RedisFault>) {
        *lock(&self.away) = fault
            .filter(|fault| fault.ends_connection())
            .map(|_| Instant::now() + AWAY);
    }

    /// All answers, errors among them. Fails if the connection broke, or could not be made.
    pub(super) async fn send(&self, pipeline: &redis::Pipeline) -> Result<Vec<Value>, RedisFault> {
        let answers = self.send_once(pipeline).await;
        self.note(answers.as_ref().err());
        answers
    }

    async fn send_once(&self, pipeline: &redis::Pipeline) -> Result<Vec<Value>, RedisFault> {
        let get = || {
            self.connection
                .get(|| open(Arc::clone(&self.reach), self.target.clone()))
        };
        let (mut number, mut connection) = get().await?;
        if connection.is_over() {
            // Nothing was sent on it: this is no broken request yet.
            self.connection.forget(number);
            (number, connection) = get().await?;
        }
        let answers = connection.send(pipeline).await;
        let is_of_no_use = match &answers {
            Err(fault) => fault.ends_connection(),
            // The primary has become a replica.
            Ok(answers) => answers
                .iter()
                .any(|answer| matches!(answer, Value::ServerError(e) if e.code() == "READONLY")),
        };
        if is_of_no_use {
            self.connection.forget(number);
        }
        answers
    }
}

async fn open(reach: Arc<Reach>, target: Target) -> Result<Connection, RedisFault> {
    for pause in PAUSES {
        match reach.open(&target, None).await {
            Err(fault) if fault.is_passing() => sleep(pause.mul_f64(jitter(0.5))).await,
            ended => return ended,
        }
    }
    reach.open(&target, None).await
}
