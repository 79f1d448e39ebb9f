//! One program for one job, from its start until nothing of it is left.

use std::time::Duration;

use brigade::{Exit, Failure, HandlerEnd, HandlerStop, LeasedJob, Step, StopReceipt};
use futures_util::future::{join, join3};
use rustix::process::Signal;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::output::{Head, Tail, feed};
use super::program::{Pipes, Program, Refusal, new_mark};
use crate::connection::URL_VARIABLE;
use crate::times::rfc3339;

/// What became of an attempt.
pub(super) enum Ending {
    Done(Option<Box<RawValue>>),
    Failed(String),
    /// No program can be run for this payload.
    Dead(String),
    Passed(String),
    Cancelled(String, StopReceipt),
    /// Uncharged.
    GivenBack(String),
    /// The lease is: there is nothing to settle.
    Lost(String),
}

impl Ending {
    /// Why it did not end well.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Done(_) => None,
            Self::Failed(why) | Self::Dead(why) | Self::Passed(why) | Self::Cancelled(why, _) => {
                Some(why)
            }
            Self::GivenBack(why) | Self::Lost(why) => Some(why),
        }
    }

    /// What the handler returns for it.
    pub(super) fn returned(&self) -> Returned {
        match self {
            Self::Done(result) => Ok(result.clone()),
            Self::Failed(why) | Self::Lost(why) => Err(Failure::new(why).into()),
            Self::Dead(why) => Err(HandlerEnd::DeadLetter(why.clone()).into()),
            Self::Passed(why) => Err(HandlerEnd::PassLater(why.clone(), PASS_PAUSE).into()),
            Self::Cancelled(_, receipt) => Err(HandlerEnd::Stopped(receipt.clone()).into()),
            Self::GivenBack(why) => Err(HandlerEnd::GiveBack(why.clone()).into()),
        }
    }
}

/// What a handler returns.
pub(super) type Returned = Result<Option<Box<RawValue>>, Box<dyn std::error::Error + Send + Sync>>;

/// A job to run the program for, and where its handler waits.
pub(super) struct Request {
    pub(super) job: LeasedJob,
    pub(super) reply: oneshot::Sender<Returned>,
}

/// `EX_TEMPFAIL` of sysexits.h.
const PASS: i32 = 75;
/// A job that was passed on is not handed out again for this long.
const PASS_PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// Runs the program for a job.
    pub(super) async fn attend(&self, request: &mut Request) -> Ending {
        let job = &request.job;
        let arguments = match self.command.fill(job.json()) {
            Ok(arguments) => arguments,
            Err(why) => return Ending::Dead(why),
        };
        let mut environment = vec![
            ("BRIGADE_JOB", job.id().as_str().to_owned()),
            ("BRIGADE_QUEUE", job.queue().to_owned()),
            ("BRIGADE_ATTEMPT", job.attempt().to_string()),
        ];
        environment.extend(job.tick().map(|tick| ("BRIGADE_TICK", rfc3339(tick.at))));
        environment.extend(self.url.iter().map(|url| (URL_VARIABLE, url.clone())));
        let name = self.command.program().display();
        let mark = match new_mark() {
            Ok(mark) => mark,
            Err(error) => return Ending::GivenBack(format!("cannot start {name} now: {error}")),
        };
        self.guard.expect(&mark).await;
        let started = Program::start(self.command.program(), &arguments, environment, &mark);
        if let Ok((program, _)) = &started {
            self.orphans.leave(program.group());
        }
        self.guard
            .add(
                &mark,
                started.as_ref().ok().map(|(program, _)| program.group()),
            )
            .await;
        match started {
            Ok((program, pipes)) => self.watch(request, program, pipes).await,
            Err(Refusal::Job(error)) => Ending::Dead(format!("cannot start {name}: {error}")),
            Err(Refusal::Later(error)) => {
                Ending::Passed(format!("cannot start {name} now: {error}"))
            }
            Err(Refusal::Ever(error)) => {
                let why = format!("cannot start {name}: {error}");
                self.broken.replace(Some(anyhow::anyhow!(why.clone())));
                self.consumer.drain();
                Ending::GivenBack(why)
            }
        }
    }

    /// From the start of a program until nothing of it is left.
    async fn watch(&self, request: &mut Request, program: Program, pipes: Pipes) -> Ending {
        let Request { job, reply } = request;
        let (mut out, mut err, ended) =
            (Head::default(), Tail::default(), CancellationToken::new());
        let (stop, receipt) = {
            let end = async {
                program.ended().await;
                program.signal(Signal::KILL);
                ended.cancel();
            };
            let Pipes {
                stdin,
                stdout,
                stderr,
            } = pipes;
            let read = join(
                self.console.carry_stdout(stdout, &mut out, &ended),
                self.console.carry_stderr(stderr, &mut err, &ended),
            );
            let fed = ended.run_until_cancelled(feed(stdin, job.json()));
            let mut all = std::pin::pin!(join3(end, read, fed));
            let stop = tokio::select! {
                _ = &mut all => None,
                stop = job.cancelled() => Some(stop),
                () = self.stop.halt.cancelled() => Some(HandlerStop::ConsumerEnds),
            };
            let asked = Instant::now();
            let mut gone = stop.is_none();
            if let Some(HandlerStop::Cancelled(_) | HandlerStop::TimedOut(_)) = &stop {
                program.signal(Signal::TERM);
                gone = tokio::select! {
                    _ = &mut all => true,
                    () = sleep(self.kill_after) => false,
                    // The consumer waits no longer: the lease is over, or is about to be.
                    () = reply.closed() => false,
                };
            }
            let step = if gone { Step::Terminated } else { Step::Killed };
            if !gone {
                program.signal(Signal::KILL);
                // What it wrote is of no use any more; nobody waits for whoever reads it.
                tokio::select! { _ = &mut all => {}, () = program.ended() => {} }
            }
            (stop, StopReceipt::new(step, asked.elapsed()))
        };
        let (group, handled) = (program.group(), program.handled_signals());
        self.guard.remove(group).await;
        let exit = program.reap().await;
        self.orphans.reaped(group);
        match stop {
            Some(HandlerStop::Cancelled(reason)) => Ending::Cancelled(reason, receipt),
            Some(HandlerStop::TimedOut(after)) => Ending::Failed(with_stderr(
                format!("timed out after {after:?}, {}", receipt.step),
                &err.text(),
            )),
            Some(HandlerStop::LeaseLost) => {
                Ending::Lost("its lease was lost, so its program was killed".to_owned())
            }
            Some(_) => Ending::GivenBack("its worker was stopped".to_owned()),
            None => match exit {
                Ok(exit) if self.stop.took(exit, handled).await => Ending::GivenBack(with_stderr(
                    format!(
                        "interrupted: the signal that stopped its worker stopped its program too \
                            ({exit})"
                    ),
                    &err.text(),
                )),
                Ok(exit) => ending_of(exit, out, &err.text()),
                Err(error) => Ending::Failed(format!("cannot tell how its program ended: {error}")),
            },
        }
    }
}

fn ending_of(exit: Exit, out: Head, stderr: &str) -> Ending {
    let why = with_stderr(exit.to_string(), stderr);
    match exit {
        Exit::Code(0) => Ending::Done(out.into_result()),
        Exit::Code(PASS) => Ending::Passed(why),
        _ => Ending::Failed(why),
    }
}

fn with_stderr(why: String, stderr: &str) -> String {
    if stderr.is_empty() {
        why
    } else {
        format!("{why}: {stderr}")
    }
}
