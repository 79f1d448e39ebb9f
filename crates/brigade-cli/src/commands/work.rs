//! `brigade work`: runs a program for each job of a queue.
//!
//! A consumer of the library leases, renews, handles cancels and settles. Its handler sends each
//! job to `serve`, one task that runs the programs, at most `-j` at once. `attempt` runs a program
//! from its start to its end, `program` is one running program with its process group, `arguments`
//! fills in its arguments, `limits` reads its limits, `output` passes its output on, `guard` kills
//! the groups if this process is killed, `stop` handles the signals that stop this process,
//! `orphans` reaps orphans in a container, `report` prints what happened.
//!
//! One task runs all programs, so that a child's number is registered before anything else can run
//! (`orphans`).

mod arguments;
mod attempt;
mod guard;
mod limits;
mod options;
mod orphans;
mod outcome;
mod output;
mod program;
mod report;
mod runner;
mod sandbox;
mod serve;
mod stop;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;

use brigade::policy::check_limits;

use self::arguments::CommandLine;
use self::guard::Guard;
pub(super) use self::guard::WorkGuard;
pub(crate) use self::options::Work;
use self::orphans::Orphans;
use self::output::Console;
use self::report::Report;
use self::runner::Runner;
use self::serve::Serving;
use self::stop::{Listener, Stop};
use crate::connection::Globals;
use crate::exit::{self, usage};
use crate::show::note;

impl Work {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        // Before anything starts that a signal to the whole group could hit.
        let signals = Listener::new()?;
        check_limits("run programs", &self.limits.limits())
            .map_err(|error| usage(error.to_string()))?;
        let _tracing = self.trace.start(false)?;
        let broker = globals.connect().await?;
        let (serving, consumer) = Serving::new(&self, &broker);
        let runner = Runner {
            broker,
            consumer: consumer.handle(),
            command: CommandLine::parse(&self.command),
            kill_after: self.kill_after,
            sandbox: self.sandbox.prepare()?,
            limits: self.limits.limits(),
            core_dumps: self.core_dumps,
            url: if self.pass_broker_url {
                Some(globals.url()?)
            } else {
                None
            },
            guard: Guard::start().await?,
            console: Console::new(!globals.json),
            report: Report::new(globals.json),
            running: Cell::default(),
            stop: Stop::new(),
            orphans: Orphans::new(),
            broken: RefCell::default(),
        };
        runner
            .guard
            .pid()
            .into_iter()
            .for_each(|guard| runner.orphans.leave(guard));
        let tell = || match runner.running.get() {
            0 => {}
            running => {
                note!(
                    "waiting for the end of {running} running; a second signal kills them and gives their jobs back"
                )
            }
        };
        tokio::select! {
            served = runner.serve(serving, consumer) => served?,
            () = runner.stop.obey(signals, tell) => {}
            error = runner.orphans.watch() => return Err(error),
        }
        runner.end(self.until_empty).await
    }
}

impl Runner {
    async fn end(self, until_empty: bool) -> anyhow::Result<ExitCode> {
        self.guard.end().await;
        if self.stop.halt.is_cancelled() {
            self.report.end();
            // At once: the runtime would wait for a write to a reader that does not read.
            std::process::exit(exit::STOPPED.into());
        }
        self.console.flush().await;
        self.report.end();
        if let Some(error) = self.broken.into_inner() {
            return Err(error);
        }
        Ok(if until_empty && self.report.has_dead() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}
