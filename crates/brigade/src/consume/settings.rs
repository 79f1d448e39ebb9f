//! The settings of a consumer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::control::Control;
use super::handler::Handler;
use super::served::OnSettled;
use crate::broker::Broker;
use crate::error::Error;
use brigade_core::AttemptLimits;
use brigade_pool::Pool;

/// Set by the methods of [`Consumer`](crate::Consumer), which documents each.
pub(super) struct ConsumerSettings {
    pub(super) broker: Broker,
    pub(super) place: ConsumerPlace,
    pub(super) queues: Vec<Box<str>>,
    pub(super) weighted: Vec<(Box<str>, u32)>,
    pub(super) prefetch: usize,
    pub(super) lease: Duration,
    pub(super) drain: Duration,
    pub(super) until: Until,
    pub(super) unserved_timeout: Duration,
    pub(super) losses_max: u32,
    /// Of attempts of jobs of a queue.
    pub(super) limits: HashMap<Box<str>, AttemptLimits>,
    pub(super) abort_after: Duration,
    pub(super) version: Option<String>,
    pub(super) on_settled: Option<OnSettled>,
    pub(super) control: Arc<Control>,
    /// The error of a `task` that is not registered.
    pub(super) wrong: Option<Error>,
}

/// Where attempts run.
#[derive(Clone)]
pub(super) enum ConsumerPlace {
    /// In processes of a pool that the consumer starts and ends.
    OwnPool,
    Pool(Pool),
    InProcess,
    /// As tasks of this runtime, by a handler.
    Handler(Handler),
}

/// When a consumer ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Never: it must be stopped.
    Told,
    /// When its queues have no job that will still run.
    Empty,
    /// When its queues have no job that is due.
    NothingDue,
}
