//! A running consumer: its parts, and its life in order.
//!
//! `Running` is the owner's side: it starts the consumer in a task of its own and kills it when it
//! is dropped. `RunningConsumer` is shared by the tasks of the consumer: the loop that leases,
//! those that renew leases, look for cancels, watch leases and announce the consumer, and one per
//! attempt.
//!
//! Invariants: each held job has one of the `prefetch` permits of `room` or, while the broker does
//! not accept its settlement, one of the 1024 permits of `untold`. The background tasks end only
//! after all attempts are settled. A pool that the consumer started itself is shut down with it,
//! also when the consumer cannot begin; a pool that was given to it is not.
//!
//! It does not decide what becomes of a job (`disposition`) and does not run attempts (`attempt`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::disposition::Policy;
use super::handler::Handler;
use super::held::HeldJob;
use super::served::{OnSettled, Served};
use super::serving::Serving;
use super::settings::{ConsumerPlace, ConsumerSettings, Until};
use super::turns::Turns;
use crate::broker::Broker;
use crate::error::{Error, ErrorKind};
use crate::registry;
use crate::shutdown::Scope;
use crate::store::{CallTransport, JobStore, Leased, LiveConsumer};
use brigade_core::AttemptLimits;
use brigade_core::policy::check_limits;
use brigade_pool::Pool;
use brigade_runtime::owner::{host_name, own_name};

/// Settlements that the broker does not accept at the moment and that no longer hold a slot of the
/// consumer. Further ones keep their slots, so that unsettled jobs are bounded.
const UNTOLD_MAX: usize = 1024;

/// A running consumer.
pub(super) struct RunningConsumer {
    pub(super) broker: Broker,
    pub(super) store: Arc<dyn JobStore>,
    pub(super) transport: Option<Arc<dyn CallTransport>>,
    /// The pool of the attempts; `None` for this process.
    pub(super) pool: Option<Pool>,
    /// The handler that runs for each job, in place of its task.
    pub(super) handler: Option<Handler>,
    pub(super) abort_after: Duration,
    pub(super) on_settled: Option<OnSettled>,
    /// The task that runs a queue's plain jobs.
    pub(super) tasks: HashMap<Box<str>, &'static str>,
    pub(super) turns: Mutex<Turns>,
    pub(super) prefetch: usize,
    pub(super) lease: Duration,
    pub(super) drain: Duration,
    pub(super) until: Until,
    pub(super) unserved_timeout: Duration,
    pub(super) losses_max: u32,
    pub(super) limits: HashMap<Box<str>, AttemptLimits>,
    pub(super) room: Arc<Semaphore>,
    pub(super) untold: Arc<Semaphore>,
    /// Held by the one job that has to run alone.
    pub(super) alone: Arc<Semaphore>,
    pub(super) held: Mutex<HashMap<u64, HeldJob>>,
    /// Notified when a job is held that was not.
    pub(super) holding: Notify,
    /// Notified when a job is held that was not, or no longer, or has progressed.
    pub(super) held_changed: Notify,
    pub(super) numbers: AtomicU64,
    pub(super) control: Arc<Control>,
    /// How the list of live consumers shows it, without the jobs that it holds.
    pub(super) announcement: LiveConsumer,
    /// Cancelled when nothing waits any longer for attempts in this process that do not end.
    pub(super) abandoning: CancellationToken,
    pub(super) scope: Scope,
}

/// A consumer that runs in a task of its own. Dropping this kills it in the background: attempts
/// are stopped and their jobs given back.
pub(super) struct Running {
    control: Arc<Control>,
    served: oneshot::Receiver<Result<Served, Error>>,
}

impl Running {
    /// # Errors
    ///
    /// As [`Consumer::run_until`].
    pub(super) async fn begin(worker: ConsumerSettings) -> Result<Self, Error> {
        let here = || {
            Scope::current().ok_or_else(|| {
                Error::new(
                    ErrorKind::Unsupported,
                    "serve outside of an async runtime (tokio)",
                )
            })
        };
        let (scope, beside) = (here()?, here()?);
        let (pool, is_own) = match &worker.place {
            ConsumerPlace::OwnPool => (Some(own_pool().await?), true),
            ConsumerPlace::Pool(pool) => (Some(pool.clone()), false),
            ConsumerPlace::InProcess | ConsumerPlace::Handler(_) => (None, false),
        };
        let own = pool.clone().filter(|_| is_own);
        let consumer = match RunningConsumer::new(worker, pool, scope) {
            Ok(consumer) => Arc::new(consumer),
            Err(error) => {
                if let Some(own) = own {
                    own.shutdown().await;
                }
                return Err(error);
            }
        };
        let control = Arc::clone(&consumer.control);
        let (tell, served) = oneshot::channel();
        // A task of its own: the caller may await it on a thread outside of the runtime, which
        // would be woken for each lease, and may stop awaiting it.
        beside.spawn(async move {
            let served = consumer.live().await;
            if let Some(own) = own {
                own.shutdown().await;
            }
            // The caller may be gone.
            tell.send(served).ok();
        });
        Ok(Self { control, served })
    }

    /// Waits until it has ended. Cancel safe.
    pub(super) async fn ended(&mut self) -> Result<Served, Error> {
        (&mut self.served).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Closed,
                "serve in a runtime that has ended",
            ))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.kill();
    }
}

/// Refuses limits that contradict each other, or that nothing would hold.
fn check_queue_limits(
    limits: &HashMap<Box<str>, AttemptLimits>,
    has_pool: bool,
) -> Result<(), Error> {
    for (queue, limits) in limits {
        if !has_pool && !limits.is_empty() {
            let text = format!(
                "serve queue {queue:?} with limits in this process: only worker processes can be \
                    limited; serve it on a pool"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        check_limits(&format!("serve queue {queue:?}"), limits)?;
    }
    Ok(())
}

async fn own_pool() -> Result<Pool, Error> {
    Pool::builder().start().await.map_err(|error| {
        let text = "start worker processes for a consumer (.on(&pool) takes yours, .in_process() \
            needs none)";
        Error::new(error.kind(), text).with_source(error)
    })
}

impl RunningConsumer {
    fn new(mut worker: ConsumerSettings, pool: Option<Pool>, scope: Scope) -> Result<Self, Error> {
        if let Some(error) = worker.wrong {
            return Err(error);
        }
        if worker.until != Until::Told && !worker.broker.capabilities().listing {
            let text =
                "serve until the queues are empty: this broker does not tell what is left in them";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        check_queue_limits(&worker.limits, pool.is_some())?;
        let tasks = registry::by_queue()?;
        let has_handler = matches!(worker.place, ConsumerPlace::Handler(_));
        if worker.queues.is_empty() && worker.weighted.is_empty() && !has_handler {
            worker.weighted = tasks.keys().map(|queue| (queue.clone(), 1)).collect();
            worker.weighted.sort();
        }
        if worker.queues.is_empty() && worker.weighted.is_empty() {
            return Err(Error::new(
                ErrorKind::BadOption,
                "serve without a queue: name one (.queue(\"emails\")), or define a #[task] and use no \
                    handler",
            ));
        }
        let turns = Turns::new(worker.queues, worker.weighted);
        worker
            .control
            .serve(Serving::of(&worker.broker, turns.all().names().to_vec()));
        let mut announcement = announcement(turns.all().names(), worker.version);
        let slots = pool.as_ref().map_or(1, |pool| 2 * pool.slots());
        let prefetch = if worker.prefetch == 0 {
            slots
        } else {
            worker.prefetch.min(PREFETCH_MAX)
        };
        announcement.prefetch = prefetch;
        let store = Arc::clone(worker.broker.store());
        let handler = match worker.place {
            ConsumerPlace::Handler(handler) => Some(handler),
            _ => None,
        };
        Ok(Self {
            handler,
            abort_after: worker.abort_after,
            on_settled: worker.on_settled,
            transport: Arc::clone(&store).calls(),
            store,
            broker: worker.broker,
            pool,
            tasks,
            turns: Mutex::new(turns),
            prefetch,
            lease: worker.lease,
            drain: worker.drain,
            until: worker.until,
            unserved_timeout: worker.unserved_timeout,
            losses_max: worker.losses_max,
            limits: worker.limits,
            room: Arc::new(Semaphore::new(prefetch)),
            untold: Arc::new(Semaphore::new(UNTOLD_MAX)),
            alone: Arc::new(Semaphore::new(1)),
            held: Mutex::default(),
            holding: Notify::new(),
            held_changed: Notify::new(),
            numbers: AtomicU64::new(0),
            control: worker.control,
            announcement,
            abandoning: CancellationToken::new(),
            scope,
        })
    }

    /// Leases and runs, then drains. When it returns, only attempts in this process that did not
    /// end are left.
    async fn live(self: Arc<Self>) -> Result<Served, Error> {
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        let beside = [
            Arc::clone(&self).renew().boxed(),
            Arc::clone(&self).hear_of_cancels().boxed(),
            Arc::clone(&self).watch_leases().boxed(),
            Arc::clone(&self).stay_announced().boxed(),
        ];
        for task in beside {
            let ended = ended.clone();
            self.scope.spawn(async move {
                ended.run_until_cancelled(task).await;
            });
        }
        let leased = self.lease_on().await;
        self.drain().await;
        drop(ends);
        self.scope.close();
        self.scope.ended().await;
        self.retire().await;
        leased.map(|()| self.control.served())
    }

    /// What decides about this job when its attempt has ended.
    pub(super) fn policy<'a>(&self, leased: &'a Leased) -> Policy<'a> {
        let (passes, now) = (self.store.capabilities().passes, self.broker.clock().now());
        let retries = self.retries_of(&leased.job);
        // What a job says itself of retries, or its caller who has the task's code, the store
        // keeps.
        let within = retries
            .retry
            .filter(|_| leased.job.options.retry.is_none() && !leased.is_call)
            .and_then(|retry| retry.within);
        Policy {
            leased,
            retries,
            begins_by: within.and_then(|within| leased.began_at.checked_add(within)),
            passes,
            unserved_timeout: self.unserved_timeout,
            now,
        }
    }
}

/// As many permits as a semaphore gives at once.
const PREFETCH_MAX: usize = 1 << 20;

/// What a consumer of this process announces.
fn announcement(queues: &[Box<str>], version: Option<String>) -> LiveConsumer {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let mut consumer = LiveConsumer::new(format!("{}/{number}", own_name()), host_name(), queues);
    consumer.version = version;
    consumer
}
