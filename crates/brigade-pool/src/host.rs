//! A worker host: joins pools of other hosts and runs the calls that they send.
//!
//! It is itself a pool, so that a crash ends one child and the report travels back. `connections`
//! keeps it connected to one master, `session` holds that master's calls over all connections, and
//! `answer` turns the outcome of a call into a message.

mod answer;
mod connections;
mod failures;
mod offer;
mod session;
mod welcome;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::failures::Failures;
use self::offer::Offer;
use self::session::Session;
use crate::error::{Error, ErrorKind};
use crate::pool::{Builder, Pool, WorkerCount};
use crate::registry;
use crate::remote::{Budget, Credentials};
use crate::shutdown::Scope;

/// A worker host, see [`serve`].
#[must_use = "a host does nothing until it runs"]
pub struct Host {
    masters: Vec<(String, Credentials)>,
    builder: Builder,
    offer: Offer,
    drain: Duration,
    control: Arc<HostControl>,
}

#[derive(Debug, Default)]
struct HostControl {
    drain: CancellationToken,
    kill: CancellationToken,
}

/// Drains or stops a running [`Host`].
#[derive(Clone, Debug)]
pub struct HostHandle(Arc<HostControl>);

/// For arguments that have not come completely, of all masters together; [`Budget`] says what one
/// of them may hold beyond it.
const PARTIAL_BYTES_MAX: usize = 256 << 20;
/// For the answers about calls that were stopped.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Joins the pool that listens at `url` (`tcp://host:port`, `tls://host:port`, `unix:///path`),
/// with this program's tasks.
///
/// The program is one that may start workers: its `main` begins with [`init`](crate::init) or has
/// `#[brigade::main]`.
pub fn serve(url: impl Into<String>, credentials: Credentials) -> Host {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    Host {
        masters: vec![(url.into(), credentials)],
        builder: Pool::builder(),
        offer: Offer {
            name,
            labels: Vec::new(),
            functions: false,
        },
        drain: Duration::from_secs(30),
        control: Arc::default(),
    }
}

impl Host {
    /// Joins this pool, too. Each pool may use all slots; calls beyond the slots wait here.
    pub fn also(mut self, url: impl Into<String>, credentials: Credentials) -> Self {
        self.masters.push((url.into(), credentials));
        self
    }

    /// How many worker processes, as in [`Builder::workers`]. Default: as there.
    pub fn workers(self, count: impl WorkerCount) -> Self {
        self.pool(|builder| builder.workers(count))
    }

    /// Attempts that one worker process may run at once, as in [`Builder::slots`]: the host offers
    /// its workers times this. Default: 1.
    pub fn slots(self, slots: u32) -> Self {
        self.pool(|builder| builder.slots(slots))
    }

    /// Changes anything else of the pool that runs the attempts: its kill ladder, its hooks, its
    /// limits.
    pub fn pool(mut self, change: impl FnOnce(Builder) -> Builder) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// What calls may ask for, see [`Call::labels`](brigade_core::Call::labels). Default: nothing.
    pub fn labels<L: Into<String>>(mut self, labels: impl IntoIterator<Item = L>) -> Self {
        self.offer.labels = labels.into_iter().map(Into::into).collect();
        self
    }

    /// Its name in tables, events and reports. Default: the name of this machine.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.offer.name = name.into();
        self
    }

    /// Whether it also runs plain functions ([`Pool::run`](crate::Pool::run)) that the program
    /// lists with `functions!`, which only pools of the very same build can ask
    /// for. Default: no.
    pub fn functions(mut self, allowed: bool) -> Self {
        self.offer.functions = allowed;
        self
    }

    /// How long running attempts may take to finish when the host drains; then they are stopped.
    /// Default: 30 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// A handle that drains or stops the host while it runs.
    pub fn handle(&self) -> HostHandle {
        HostHandle(Arc::clone(&self.control))
    }

    /// Serves until SIGINT (Ctrl-C) or SIGTERM, then [drains](HostHandle::drain); at the second one
    /// it [is killed](HostHandle::kill).
    ///
    /// # Errors
    ///
    /// As [`run_until`](Host::run_until).
    pub async fn run(self) -> Result<(), Error> {
        let listen = |kind| signal(kind).map_err(|e| Error::os("listen for signals", e));
        let (mut interrupt, mut terminate) = (
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        );
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let handle = self.handle();
        self.run_until(async {
            next().await;
            tracing::info!("draining; once more to stop at once");
            handle.drain();
            next().await;
            handle.kill();
        })
        .await
    }

    /// Serves until `stop` completes or [`HostHandle`] drains it, then drains: begins nothing more,
    /// finishes what runs within [`drain_timeout`](Host::drain_timeout), hands over the results,
    /// leaves.
    ///
    /// While a connection is down it goes on with what it runs, connects again and again, and hands
    /// over then what finished meanwhile. A pool that does not know it any more, or has not been
    /// there for as long as that pool said, has its calls stopped.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`]. `BadOption` or `Unsupported` for a URL or credentials that cannot be
    /// used; `Refused` or `Protocol` if a pool that has authenticated refuses the first
    /// introduction: for the version, or a task that has other types there. Anything else that
    /// answers at the address, with another key or none, is retried for ever, and logged as a
    /// warning once per cause.
    ///
    /// # Cancel safety
    ///
    /// Dropping it kills what runs; the pools see a host that is away.
    pub async fn run_until(self, stop: impl Future) -> Result<(), Error> {
        let Self {
            masters,
            builder,
            offer,
            drain,
            control,
        } = self;
        let no_runtime = || {
            Error::new(
                ErrorKind::Unsupported,
                "serve outside of an async runtime (tokio)",
            )
        };
        let scope = Scope::current().ok_or_else(no_runtime)?;
        registry::check()?;
        let pool = builder.start().await?;
        let end = CancellationToken::new();
        let _end_if_dropped: DropGuard = end.clone().drop_guard();
        let failures = Arc::new(Failures::default());
        let offer = Arc::new(offer);
        let budget = Budget::new(PARTIAL_BYTES_MAX);
        for master in masters {
            let session = Session::new(master, pool.clone(), Arc::clone(&offer), budget.clone())?;
            let (failures, end, drain) =
                (Arc::clone(&failures), end.clone(), control.drain.clone());
            scope.spawn(async move {
                end.run_until_cancelled(connections::live(&session, &drain, &failures))
                    .await;
            });
        }
        scope.close();
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            _ = &mut stop => {}
            () = control.drain.cancelled() => {}
            () = control.kill.cancelled() => {}
            () = failures.came.cancelled() => {}
        }
        control.drain.cancel();
        let in_time = timeout(drain, async {
            tokio::select! {
                () = scope.ended() => true,
                () = control.kill.cancelled() => false,
                // What was to begin the drain may have more to say.
                () = async { stop.await; std::future::pending().await } => false,
            }
        });
        if !matches!(in_time.await, Ok(true)) {
            pool.kill().await;
            timeout(FAREWELL_TIMEOUT, scope.ended()).await.ok();
        }
        end.cancel();
        scope.ended().await;
        pool.shutdown().await;
        failures.first().map_or(Ok(()), Err)
    }
}

impl HostHandle {
    /// Begins nothing more, lets what runs finish, and leaves. [`Host::run_until`] returns then.
    pub fn drain(&self) {
        self.0.drain.cancel();
    }

    /// Stops everything at once, by the kill ladder, and leaves.
    pub fn kill(&self) {
        self.0.kill.cancel();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<&str> = self.masters.iter().map(|(url, _)| url.as_str()).collect();
        f.debug_struct("Host")
            .field("masters", &urls)
            .field("offer", &self.offer)
            .finish_non_exhaustive()
    }
}
