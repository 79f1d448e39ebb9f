//! `brigade work`: any program as a worker of a queue.
//!
//! A consumer of the library leases, renews, hears of cancels and settles; its handler sends each job
//! to `serve`, one task that runs the programs, `-j` of them side by side. `attempt` is a program
//! from its start to its end. `program` is one running program and its process group, `arguments` fills in
//! its arguments, `output` carries what it prints, `guard` ends the groups if this process is
//! killed, `stop` are the signals that stop this process, `orphans` reaps what a container leaves
//! to it, `report` tells what happened.
//!
//! The programs share one task because a child is known by its number before anything else can run
//! (`orphans`).

mod arguments;
mod attempt;
mod guard;
mod orphans;
mod output;
mod program;
mod report;
mod serve;
mod stop;

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use brigade::{Broker, ConsumerHandle};

use self::arguments::CommandLine;
use self::guard::Guard;
pub(super) use self::guard::WorkGuard;
use self::orphans::Orphans;
use self::output::Console;
use self::report::Report;
use self::serve::Serving;
use self::stop::{Listener, Stop};
use crate::connection::Globals;
use crate::exit;
use crate::show::note;
use crate::times;

/// Run a program for each job of a queue
///
/// The program gets the payload as JSON on its standard input. In its arguments, {} is replaced by
/// the payload and {name} by that field of a JSON object, strings without their quotes; write {{}}
/// and {{name}} for the braces themselves, and ${name} stays as it is. BRIGADE_JOB, BRIGADE_QUEUE
/// and BRIGADE_ATTEMPT are in its environment, and BRIGADE_TICK for a job of a schedule.
///
/// Exit code 0 is done: the first 64 KiB of its standard output, if the job is kept, are its
/// result, as JSON or else as a JSON string. Exit code 75 passes the job on, uncharged. Every other
/// end is a failure, with the end of its standard error as the reason. Each program runs in a
/// process group of its own, all of which is ended with it.
///
/// The first SIGINT or SIGTERM takes nothing new and lets the running programs finish; the second
/// kills them and gives their jobs back, uncharged. A program that the same signal ends too is
/// interrupted: its job is given back, uncharged.
#[derive(clap::Args)]
pub(crate) struct Work {
    /// Queue to serve
    #[arg(value_name = "QUEUE")]
    queue: String,

    /// Programs that run at once
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,

    /// End when the queue holds nothing that will still be run; exit code 1 if a job became a dead
    /// letter
    #[arg(long)]
    until_empty: bool,

    /// How long a job is held if this process is lost; renewed while its program runs
    #[arg(long, value_name = "TIME", value_parser = lease_time, default_value = "30s")]
    lease: Duration,

    /// From SIGTERM to SIGKILL, for the program of a cancelled job
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "5s")]
    kill_after: Duration,

    /// Give the programs the URL of the broker as BRIGADE_URL, with its password [default: they do
    /// not have that variable]
    #[arg(long)]
    pass_broker_url: bool,

    /// Program and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true, num_args = 1..)]
    command: Vec<OsString>,
}

/// Below this, a busy moment of the broker would cost the lease.
const LEASE_MIN: Duration = Duration::from_secs(1);

fn lease_time(text: &str) -> Result<Duration, String> {
    let time = times::duration(text)?;
    if time < LEASE_MIN {
        Err(format!("a lease takes {LEASE_MIN:?} or more"))
    } else {
        Ok(time)
    }
}

/// What the programs share.
struct Worker {
    broker: Broker,
    consumer: ConsumerHandle,
    command: CommandLine,
    kill_after: Duration,
    /// For the programs, if they are to have it.
    url: Option<String>,
    guard: Guard,
    console: Console,
    report: Report,
    /// Programs that run now.
    running: Cell<usize>,
    stop: Stop,
    orphans: Orphans,
    /// Why there is no point in going on.
    broken: RefCell<Option<anyhow::Error>>,
}

impl Work {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        // Before anything starts that a signal to all of us could hit.
        let signals = Listener::new()?;
        let broker = globals.connect().await?;
        let (serving, consumer) = Serving::new(&self, &broker);
        let worker = Worker {
            broker,
            consumer: consumer.handle(),
            command: CommandLine::parse(&self.command),
            kill_after: self.kill_after,
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
        worker
            .guard
            .pid()
            .into_iter()
            .for_each(|guard| worker.orphans.leave(guard));
        let tell = || match worker.running.get() {
            0 => {}
            running => {
                note!("{running} running, waiting for the end; once more to kill and give back")
            }
        };
        tokio::select! {
            served = worker.serve(serving, consumer) => served?,
            () = worker.stop.obey(signals, tell) => {}
            error = worker.orphans.watch() => return Err(error),
        }
        worker.end(self.until_empty).await
    }
}

impl Worker {
    async fn end(self, until_empty: bool) -> anyhow::Result<ExitCode> {
        self.guard.end().await;
        if self.stop.halt.is_cancelled() {
            self.report.end();
            // At once: the runtime would wait for a write to whoever does not read our output.
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
