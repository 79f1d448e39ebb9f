//! One program for one job, from its start until no process of it is left.

use brigade::{Error, Exit, HandlerStop, LeasedJob, LimitHit, ProgramTree, Step, StopReceipt};
use futures_util::future::{join, join3};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::outcome::{ProgramOutcome, Request};
use super::output::{Head, Tail, feed};
use super::program::{Containment, Pipes, Program, Refusal, new_mark};
use super::runner::Runner;
use super::sandbox::prepared;
use crate::connection::URL_VARIABLE;
use crate::times::rfc3339;

/// `EX_TEMPFAIL` of sysexits.h.
const PASS: i32 = 75;
impl Runner {
    /// Runs the program for a job.
    pub(super) async fn attend(&self, request: &mut Request) -> ProgramOutcome {
        let job = &request.job;
        let arguments = match self.command.fill(job.json()) {
            Ok(arguments) => arguments,
            Err(why) => return ProgramOutcome::Dead(why),
        };
        let mut environment = vec![
            ("BRIGADE_JOB", job.id().as_str().to_owned()),
            ("BRIGADE_QUEUE", job.queue().to_owned()),
            ("BRIGADE_ATTEMPT", job.attempt().to_string()),
        ];
        environment.extend(job.tick().map(|tick| ("BRIGADE_TICK", rfc3339(tick.at))));
        let trace = job.traceparent().map(|trace| trace.as_str().to_owned());
        environment.extend(trace.map(|trace| ("TRACEPARENT", trace)));
        environment.extend(self.url.iter().map(|url| (URL_VARIABLE, url.clone())));
        let name = self.command.program().display();
        let mark = match new_mark() {
            Ok(mark) => mark,
            Err(error) => {
                return ProgramOutcome::GivenBack(format!("cannot start {name} now: {error}"));
            }
        };
        let (containment, tree) = match self.contain(job, &mark) {
            Ok(contained) => contained,
            Err(error) => return ProgramOutcome::Failed(format!("cannot start {name}: {error}")),
        };
        self.guard.expect(&mark).await;
        let program = self.command.program();
        let started = Program::start(program, &arguments, environment, &mark, containment);
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
            Ok((program, pipes)) => self.watch(request, program, pipes, tree).await,
            Err(Refusal::Ever(error)) if job.sandbox().is_some() => ProgramOutcome::Failed(
                format!("cannot start {name} in the sandbox that the job asks for: {error}"),
            ),
            Err(Refusal::Job(error)) => {
                ProgramOutcome::Dead(format!("cannot start {name}: {error}"))
            }
            Err(Refusal::Later(error)) => {
                ProgramOutcome::Passed(format!("cannot start {name} now: {error}"))
            }
            Err(Refusal::Ever(error)) => {
                let why = format!("cannot start {name}: {error}");
                self.broken.replace(Some(anyhow::anyhow!(why.clone())));
                self.consumer.drain();
                ProgramOutcome::GivenBack(why)
            }
        }
    }

    /// What the program of a job may do and use: no more than the command line says, whatever the
    /// job asks for.
    fn contain(&self, job: &LeasedJob, mark: &str) -> anyhow::Result<(Containment, ProgramTree)> {
        let sandbox = job.sandbox().map(prepared).transpose()?;
        let tree = ProgramTree::new(mark, job.limits().within(self.limits))?;
        let containment = Containment {
            confinement: tree.confinement(self.core_dumps)?,
            sandboxes: self.sandbox.iter().cloned().chain(sandbox).collect(),
        };
        Ok((containment, tree))
    }

    /// From the start of a program until nothing of it is left.
    async fn watch(
        &self,
        request: &mut Request,
        program: Program,
        pipes: Pipes,
        tree: ProgramTree,
    ) -> ProgramOutcome {
        let leader = program.group().as_raw_nonzero().get();
        // Where its limits cannot be held, it does not run.
        let held = tree.watch(leader.cast_unsigned());
        let Request { job, reply } = request;
        let (mut out, mut err, ended) =
            (Head::default(), Tail::default(), CancellationToken::new());
        let (stop, receipt) = {
            let end = async {
                program.ended().await;
                program.signal(Signal::KILL);
                // What left its group, wherever it is.
                tree.end(leader).await;
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
                hit = over_limit(&tree, held) => Some(Stopped::OverLimit(hit)),
                stop = job.cancelled() => Some(Stopped::By(stop)),
                () = self.stop.halt.cancelled() => Some(Stopped::By(HandlerStop::ConsumerEnds)),
            };
            let asked = Instant::now();
            let mut has_ended = stop.is_none();
            if stop.as_ref().is_some_and(Stopped::is_asked_first) {
                program.signal(Signal::TERM);
                has_ended = tokio::select! {
                    _ = &mut all => true,
                    () = sleep(self.kill_after) => false,
                    // The consumer waits no longer: the lease is over, or is about to be.
                    () = reply.closed() => false,
                };
            }
            if has_ended {
                (stop, StopReceipt::new(Step::Terminated, asked.elapsed()))
            } else {
                program.signal(Signal::KILL);
                // Its output is not needed any more, so this does not wait for its reader.
                tokio::select! { _ = &mut all => {}, () = program.ended() => {} }
                tree.end(leader).await;
                (stop, StopReceipt::new(Step::Killed, asked.elapsed()))
            }
        };
        let (group, handled) = (program.group(), program.handled_signals());
        self.guard.remove(group).await;
        let exit = program.reap().await;
        self.orphans.reaped(group);
        let is_interrupted = match (&stop, &exit) {
            (None, Ok(exit)) => self.stop.took(*exit, handled).await,
            _ => false,
        };
        let stderr = err.text();
        match (stop, exit) {
            (Some(stop), _) => outcome_of_stop(stop, receipt, &stderr),
            (None, Ok(exit)) if is_interrupted => interrupted(exit, &stderr),
            (None, Ok(exit)) => match limit_met(exit, &tree) {
                Some(hit) => over(&hit, &stderr),
                None => outcome_of(exit, out, &stderr),
            },
            (None, Err(error)) => {
                ProgramOutcome::Failed(format!("cannot find out how its program ended: {error}"))
            }
        }
    }
}

fn interrupted(exit: Exit, stderr: &str) -> ProgramOutcome {
    let why = format!(
        "interrupted: the signal that stopped its consumer stopped its program too ({exit})"
    );
    ProgramOutcome::GivenBack(with_stderr(why, stderr))
}

/// Why a program was stopped.
enum Stopped {
    By(HandlerStop),
    /// It went over a limit, or its limits could not be held.
    OverLimit(Result<LimitHit, Error>),
}

impl Stopped {
    /// Whether there is time for SIGTERM.
    fn is_asked_first(&self) -> bool {
        matches!(
            self,
            Self::By(HandlerStop::Cancelled(_) | HandlerStop::TimedOut(_))
                | Self::OverLimit(Ok(LimitHit::Cpu { .. }))
        )
    }
}

async fn over_limit(tree: &ProgramTree, held: Result<(), Error>) -> Result<LimitHit, Error> {
    held?;
    Ok(tree.over_limit().await)
}

fn over(hit: &LimitHit, stderr: &str) -> ProgramOutcome {
    ProgramOutcome::Failed(with_stderr(format!("over a limit: {hit}"), stderr))
}

/// The limit that made a program end as it did.
fn limit_met(exit: Exit, tree: &ProgramTree) -> Option<LimitHit> {
    let file_size = tree.limits().file_size;
    let of_files = file_size.map(|allowed| LimitHit::FileSize { allowed });
    match exit {
        Exit::Code(0) => None,
        Exit::Signal(libc::SIGXFSZ) => of_files,
        // As shells say it of a child.
        Exit::Code(code) if code == 128 + libc::SIGXFSZ => of_files,
        _ => tree.limit_met(),
    }
}

/// The outcome of a program that was stopped.
fn outcome_of_stop(stop: Stopped, receipt: StopReceipt, stderr: &str) -> ProgramOutcome {
    let stop = match stop {
        Stopped::OverLimit(Ok(hit)) => return over(&hit, stderr),
        Stopped::OverLimit(Err(error)) => {
            let why = format!("cannot hold the limits of its program: {error}");
            return ProgramOutcome::GivenBack(why);
        }
        Stopped::By(stop) => stop,
    };
    match stop {
        HandlerStop::Cancelled(reason) => ProgramOutcome::Cancelled(reason, receipt),
        HandlerStop::TimedOut(after) => ProgramOutcome::Failed(with_stderr(
            format!("timed out after {after:?}, {}", receipt.step),
            stderr,
        )),
        HandlerStop::LeaseLost => {
            ProgramOutcome::Lost("its lease was lost, so its program was killed".to_owned())
        }
        _ => ProgramOutcome::GivenBack("its consumer was stopped".to_owned()),
    }
}

fn outcome_of(exit: Exit, out: Head, stderr: &str) -> ProgramOutcome {
    let why = with_stderr(exit.to_string(), stderr);
    match exit {
        Exit::Code(0) => ProgramOutcome::Done(out.into_result()),
        Exit::Code(PASS) => ProgramOutcome::Passed(why),
        _ => ProgramOutcome::Failed(why),
    }
}

fn with_stderr(why: String, stderr: &str) -> String {
    if stderr.is_empty() {
        why
    } else {
        format!("{why}: {stderr}")
    }
}
