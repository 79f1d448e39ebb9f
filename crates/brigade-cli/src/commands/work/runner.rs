//! What all programs of one `brigade work` share.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use brigade::{AttemptLimits, Broker, ConsumerHandle, PreparedSandbox};

use super::arguments::CommandLine;
use super::guard::Guard;
use super::orphans::Orphans;
use super::output::Console;
use super::report::Report;
use super::stop::Stop;

/// Settings that the programs share.
pub(super) struct Runner {
    pub(super) broker: Broker,
    pub(super) consumer: ConsumerHandle,
    pub(super) command: CommandLine,
    pub(super) kill_after: Duration,
    /// The sandbox of all programs, in addition to the one that a job asks for.
    pub(super) sandbox: Option<Arc<PreparedSandbox>>,
    /// Of each program with all that it starts.
    pub(super) limits: AttemptLimits,
    pub(super) core_dumps: bool,
    /// The broker's URL, if programs get it.
    pub(super) url: Option<String>,
    pub(super) guard: Guard,
    pub(super) console: Console,
    pub(super) report: Report,
    /// Programs that run now.
    pub(super) running: Cell<usize>,
    pub(super) stop: Stop,
    pub(super) orphans: Orphans,
    /// The error that ends the command.
    pub(super) broken: RefCell<Option<anyhow::Error>>,
}
