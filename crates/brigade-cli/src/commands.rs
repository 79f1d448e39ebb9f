//! The subcommands: which there are, and nothing else.

mod call;
mod cancel;
mod completions;
mod cron;
mod dead;
mod job;
mod jobs;
mod key;
mod limit;
mod manager;
mod migrate;
mod push;
mod queues;
mod serve;
mod take;
mod token;
mod top;
mod why;
mod work;

use std::process::ExitCode;

use crate::connection::Globals;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Push(push::Push),
    Take(take::Take),
    Call(call::Call),
    Work(work::Work),
    Queues(queues::Queues),
    Jobs(jobs::Jobs),
    Job(job::Job),
    Why(why::Why),
    Cancel(cancel::Cancel),
    Retry(job::Retry),
    Dead(dead::Dead),
    Pause(queues::Pause),
    Resume(queues::Resume),
    Limit(limit::Limit),
    Cron(cron::Cron),
    Manager(manager::Manager),
    Serve(Box<serve::Serve>),
    Token(token::Token),
    Key(key::Key),
    Purge(queues::Purge),
    Check(why::Check),
    Migrate(migrate::Migrate),
    Top(top::Top),
    Completions(completions::Completions),
    Man(completions::Manual),
    #[command(hide = true)]
    WorkGuard(work::WorkGuard),
}

impl Command {
    /// Runs it. `definition` gives the whole command line, of which completions and manual pages
    /// are made.
    pub(crate) async fn run(
        self,
        globals: &Globals,
        definition: fn() -> clap::Command,
    ) -> anyhow::Result<ExitCode> {
        match self {
            Self::Push(push) => push.run(globals).await,
            Self::Take(take) => take.run(globals).await,
            Self::Call(call) => call.run(globals).await,
            Self::Work(work) => work.run(globals).await,
            Self::Queues(queues) => queues.run(globals).await,
            Self::Jobs(jobs) => jobs.run(globals).await,
            Self::Job(job) => job.run(globals).await,
            Self::Why(why) => why.run(globals).await,
            Self::Cancel(cancel) => cancel.run(globals).await,
            Self::Retry(retry) => retry.run(globals).await,
            Self::Dead(dead) => dead.run(globals).await,
            Self::Pause(pause) => pause.run(globals).await,
            Self::Resume(resume) => resume.run(globals).await,
            Self::Limit(limit) => limit.run(globals).await,
            Self::Cron(cron) => cron.run(globals).await,
            Self::Manager(manager) => manager.run(globals).await,
            Self::Serve(serve) => serve.run(globals).await,
            Self::Token(token) => token.run(globals.json),
            Self::Key(key) => key.run(),
            Self::Purge(purge) => purge.run(globals).await,
            Self::Check(check) => check.run(globals).await,
            Self::Migrate(migrate) => migrate.run(globals).await,
            Self::Top(top) => top.run(globals).await,
            Self::Completions(completions) => completions.run(definition()),
            Self::Man(manual) => manual.run(definition()),
            Self::WorkGuard(guard) => guard.run(),
        }
    }
}
