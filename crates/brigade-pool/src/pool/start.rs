//! The start of a pool: the program is checked, the state is made, the first workers are started.
//!
//! A program that cannot have workers is refused before anything is started: its `main` never calls
//! `brigade::init()`, or another program loaded its code. A pool whose first workers cannot start
//! is ended again.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::core::{Core, Stage};
#[cfg(feature = "remote")]
use super::listen;
use super::monitor::Monitor;
use super::shared::{RuntimeGuard, Shared};
use super::{Pool, PoolOwner};
use crate::confinement;
use crate::entry::worker_entry_is_set;
use crate::error::{Error, ErrorKind};
use crate::registry;
#[cfg(feature = "remote")]
use crate::remote::transport::Listener;
use crate::shutdown::Scope;

/// Events that a reader may be behind before it misses some.
const EVENTS_MAX: usize = 4096;

impl Pool {
    pub(super) async fn start(
        #[cfg_attr(
            not(feature = "remote"),
            expect(unused_mut, reason = "with hosts that join")
        )]
        mut config: Config,
    ) -> Result<Self, Error> {
        check_program(&config)?;
        let no_runtime = || {
            Error::new(
                ErrorKind::Unsupported,
                "start a pool outside of an async runtime (tokio)",
            )
        };
        let scope = Scope::current().ok_or_else(no_runtime)?;
        #[cfg(feature = "remote")]
        let listeners = config.hosts.bind().await?;
        let monitor = config.monitor.as_deref().map(Monitor::listen).transpose()?;
        let shared = Arc::new(shared(
            config,
            scope,
            #[cfg(feature = "remote")]
            &listeners,
        ));
        let pool = Self(Arc::new(PoolOwner(Arc::clone(&shared))));
        shared
            .scope
            .spawn_until_closed(Arc::clone(&shared).keep_time(RuntimeGuard(Arc::clone(&shared))));
        // Starts the smallest number of workers.
        shared.step(|core, effects| core.advance(Stage::Open, effects));
        #[cfg(feature = "remote")]
        for listener in listeners {
            shared
                .scope
                .spawn_until_closed(listen::open(Arc::clone(&shared), listener));
        }
        if let Some(monitor) = monitor {
            let served = monitor.serve(Arc::clone(&shared));
            shared.scope.spawn_until_closed(served);
        }
        match pool.ready(shared.config.workers_min).await {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.kill().await;
                Err(error)
            }
        }
    }
}

/// The state of a pool that has no workers yet.
fn shared(
    config: Config,
    scope: Scope,
    #[cfg(feature = "remote")] listeners: &[Listener],
) -> Shared {
    let config = Arc::new(config);
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let room = Arc::new(Semaphore::new(config.queue_max));
    let core = Core::new(
        Arc::clone(&config),
        events.clone(),
        Arc::clone(&room),
        RandomState::new().hash_one(0_u8),
        Instant::now(),
    );
    Shared {
        core: Mutex::new(core),
        scope,
        room,
        events,
        probe: Mutex::default(),
        clock: Notify::new(),
        changed: Notify::new(),
        killed: CancellationToken::new(),
        #[cfg(feature = "remote")]
        listening: listeners
            .iter()
            .map(|listener| listener.url().to_owned())
            .collect(),
        #[cfg(feature = "remote")]
        partial: crate::remote::Budget::new(listen::PARTIAL_BYTES_MAX),
        #[cfg(feature = "remote")]
        refusals: listeners.iter().map(Listener::refusals).collect(),
        config,
    }
}

/// Whether this program can have workers.
///
/// # Errors
///
/// `NotInitialized`, `DuplicateTask` or `Unsupported`, if it cannot.
fn check_program(config: &Config) -> Result<(), Error> {
    if config.workers_max > 0 && config.runs_own_program() && !worker_entry_is_set() {
        return Err(Error::new(
            ErrorKind::NotInitialized,
            "start a pool: workers are this program started again, and its main never called \
                brigade::init(); \
             put #[brigade::main] on main, or brigade::init() on its first line (in a test \
             file: brigade::test_workers!();)",
        ));
    }
    if config.workers_max > 0 && config.runs_own_program() {
        check_own_program()?;
    }
    if let Some(sandbox) = &config.sandbox
        && config.workers_max > 0
    {
        confinement::check(sandbox)?;
    }
    registry::check()?;
    crate::process::check_children_are_kept()
}

/// Whether this program started again has this code.
///
/// # Errors
///
/// `Unsupported` if another program loaded it, as Python loads an extension: that program, without
/// its arguments, would be no worker.
fn check_own_program() -> Result<(), Error> {
    let code = crate::process::proc_fs::file_at(
        (check_own_program as fn() -> Result<(), Error> as *const ()).addr(),
    );
    match (code, std::fs::read_link("/proc/self/exe")) {
        (Some(code), Ok(program)) if code != program => {
            let text = format!(
                "start a pool: workers are {} started again without arguments, but this code lies \
                    in {}, which that has loaded; name a program that \
                 loads it and calls brigade::init(), with its arguments (Builder::program)",
                program.display(),
                code.display()
            );
            Err(Error::new(ErrorKind::Unsupported, text))
        }
        _ => Ok(()),
    }
}
