//! Room for one program: lease a job, run the program, settle, again and again.

use std::cell::Cell;
use std::time::Duration;

use brigade::{Error, Exit, Lease, Settled, Step, StopReceipt};
use futures_util::future::{join, join3};
use rustix::process::Signal;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::output::{Head, Tail, feed};
use super::program::{Pipes, Program, Refusal, new_mark};
use crate::connection::URL_VARIABLE;
use crate::show::note;
use crate::times::{later, rfc3339};

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
}

/// A job in our hands.
struct Held {
    lease: Lease,
    /// The lease holds at least until then.
    until: Cell<Instant>,
}

/// Why a program is stopped.
enum Cause {
    Cancel(String),
    /// It ran for longer than its job allows.
    Timeout(Duration),
    Lost,
    Halt,
}

/// `EX_TEMPFAIL` of sysexits.h.
const PASS: i32 = 75;
/// A job that was passed on is not handed out again for this long.
const PASS_PAUSE: Duration = Duration::from_secs(1);
/// After an error of the broker.
const ERROR_PAUSE: Duration = Duration::from_millis(500);
/// One wait for a job; then it is looked whether to stop.
const WAIT: Duration = Duration::from_millis(500);
/// The first look whether a queue is empty comes after so long, later ones after up to [`WAIT`].
const FIRST_LOOK: Duration = Duration::from_millis(20);

impl Worker {
    pub(super) async fn slot(&self) {
        let mut next = self.next().await;
        while let Some(held) = next {
            let began = Instant::now();
            self.running.set(self.running.get() + 1);
            let ending = self.attend(&held).await;
            self.running.set(self.running.get() - 1);
            // Together, so that the broker can commit both in one go.
            ((), next) = join(self.settle(held, ending, began.elapsed()), self.next()).await;
        }
    }

    /// The next job; `None` if there is none to wait for or this worker is to stop.
    async fn next(&self) -> Option<Held> {
        if self.stop.drain.is_cancelled() {
            return None;
        }
        // Without a turn, so that it goes into one commit with a settlement.
        if let Ok(Some(held)) = self.ask(Duration::ZERO).await {
            return self.unless_stopped(held).await;
        }
        let _turn = self
            .stop
            .drain
            .run_until_cancelled(self.turn.lock())
            .await?;
        let mut wait = if self.until_empty { FIRST_LOOK } else { WAIT };
        while !self.stop.drain.is_cancelled() {
            match self.ask(wait.min(self.lease / 4)).await {
                Ok(Some(held)) => return self.unless_stopped(held).await,
                Ok(None) if self.until_empty && self.is_empty().await => return None,
                Ok(None) => wait = (wait * 2).min(WAIT),
                Err(error) => {
                    note!("cannot lease a job, trying again: {error:#}");
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
        None
    }

    async fn ask(&self, wait: Duration) -> Result<Option<Held>, Error> {
        let asked = Instant::now();
        let lease = self.queue.lease(self.lease, wait).await?;
        Ok(lease.map(|lease| Held {
            lease,
            until: Cell::new(later(asked, self.lease)),
        }))
    }

    async fn unless_stopped(&self, held: Held) -> Option<Held> {
        if !self.stop.drain.is_cancelled() {
            return Some(held);
        }
        self.settle(
            held,
            Ending::GivenBack("its worker stopped".to_owned()),
            Duration::ZERO,
        )
        .await;
        None
    }

    /// Whether nothing of the queue will still be run, by anybody.
    async fn is_empty(&self) -> bool {
        let Ok(queues) = self.broker.queues().await else {
            return false;
        };
        let ours = queues
            .iter()
            .filter(|counts| counts.queue == self.queue.name());
        !ours
            .flat_map(|counts| &counts.jobs)
            .any(|(state, count)| !state.is_terminal() && *count > 0)
    }

    /// Runs the program for a job.
    async fn attend(&self, held: &Held) -> Ending {
        let lease = &held.lease;
        let arguments = match self.command.fill(lease.json()) {
            Ok(arguments) => arguments,
            Err(why) => return Ending::Dead(why),
        };
        let mut environment = vec![
            ("BRIGADE_JOB", lease.id().as_str().to_owned()),
            ("BRIGADE_QUEUE", self.queue.name().to_owned()),
            ("BRIGADE_ATTEMPT", lease.attempt().to_string()),
        ];
        environment.extend(lease.tick().map(|tick| ("BRIGADE_TICK", rfc3339(tick.at))));
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
            Ok((program, pipes)) => self.watch(held, program, pipes).await,
            Err(Refusal::Job(error)) => Ending::Dead(format!("cannot start {name}: {error}")),
            Err(Refusal::Later(error)) => {
                Ending::Passed(format!("cannot start {name} now: {error}"))
            }
            Err(Refusal::Ever(error)) => {
                let why = format!("cannot start {name}: {error}");
                self.broken.replace(Some(anyhow::anyhow!(why.clone())));
                self.stop.drain.cancel();
                Ending::GivenBack(why)
            }
        }
    }

    /// From the start of a program until nothing of it is left.
    async fn watch(&self, held: &Held, program: Program, pipes: Pipes) -> Ending {
        let began = Instant::now();
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
            let fed = ended.run_until_cancelled(feed(stdin, held.lease.json()));
            let mut all = std::pin::pin!(join3(end, read, fed));
            let stop = tokio::select! {
                _ = &mut all => None,
                stop = self.reason_to_stop(held, began) => Some(stop),
            };
            let asked = Instant::now();
            let mut gone = stop.is_none();
            if let Some(Cause::Cancel(_) | Cause::Timeout(_)) = &stop {
                program.signal(Signal::TERM);
                gone = tokio::select! { _ = &mut all => true, () = self.grace(held) => false };
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
            Some(Cause::Cancel(reason)) => Ending::Cancelled(reason, receipt),
            Some(Cause::Timeout(after)) => Ending::Failed(with_stderr(
                format!("timed out after {after:?}, {}", receipt.step),
                &err.text(),
            )),
            Some(Cause::Lost) => {
                Ending::Lost("its lease was lost, so its program was killed".to_owned())
            }
            Some(Cause::Halt) => Ending::GivenBack("its worker was stopped".to_owned()),
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

    /// Ends when a program that was asked to end has had its time. The lease holds for so long, and
    /// a little more.
    async fn grace(&self, held: &Held) {
        let (asked, time) = (Instant::now(), self.lease.saturating_add(self.kill_after));
        if let Ok(Ok(Settled::Accepted(_))) = timeout(self.lease / 6, held.lease.extend(time)).await
        {
            held.until.set(later(asked, time));
        }
        sleep_until(later(asked, self.kill_after).min(held.until.get() - self.lease / 6)).await;
    }

    /// Renews the lease for as long as nothing says that the program has to end.
    async fn reason_to_stop(&self, held: &Held, began: Instant) -> Cause {
        let timed_out = async {
            match held.lease.timeout() {
                Some(time) => {
                    sleep_until(later(began, time)).await;
                    time
                }
                None => std::future::pending().await,
            }
        };
        let renewed = async {
            loop {
                sleep(self.lease / 3).await;
                let asked = Instant::now();
                // A cancelled one is held for as long as its end may take.
                let time = self.lease.saturating_add(self.kill_after);
                // A little before the end, so that a program is gone when the lease is.
                let last = held.until.get() - self.lease / 6;
                tokio::select! {
                    extended = held.lease.extend(time) => match extended {
                        Ok(Settled::Accepted(None)) => held.until.set(later(asked, time)),
                        Ok(Settled::Accepted(Some(reason))) => return Cause::Cancel(reason),
                        Ok(_) => return Cause::Lost,
                        Err(error) => note!("cannot renew the lease of job {}: {error:#}", held.lease.id()),
                    },
                    () = sleep_until(last) => {}
                }
                if Instant::now() >= held.until.get() - self.lease / 6 {
                    return Cause::Lost;
                }
            }
        };
        tokio::select! {
            stop = renewed => stop,
            reason = held.lease.cancel_asked() => Cause::Cancel(reason),
            time = timed_out => Cause::Timeout(time),
            () = self.stop.halt.cancelled() => Cause::Halt,
        }
    }

    /// Tells the broker, for as long as the lease can hold.
    async fn settle(&self, held: Held, ending: Ending, took: Duration) {
        let Held { lease, until } = held;
        let settled = loop {
            match settle_once(lease.clone(), &ending).await {
                Ok(settled) => break settled,
                Err(error) if Instant::now() < until.get() => {
                    note!("cannot settle job {}, trying again: {error:#}", lease.id())
                }
                Err(_) => break Settled::Stale,
            }
            sleep(ERROR_PAUSE).await;
        };
        let ending = match (settled, ending) {
            (Settled::Accepted(_), ending) | (_, ending @ Ending::Lost(_)) => ending,
            _ => Ending::Lost("its lease had run out before it was settled".to_owned()),
        };
        let is_open = matches!(ending, Ending::Failed(_));
        let job = if is_open {
            self.broker.job(lease.id()).await.ok().flatten()
        } else {
            None
        };
        if let Some(line) = self.report.settled(&lease, &ending, job.as_ref(), took) {
            self.console.print(line).await;
        }
    }
}

async fn settle_once(lease: Lease, ending: &Ending) -> Result<Settled, Error> {
    match ending {
        Ending::Done(None) => lease.ack().await,
        Ending::Done(Some(result)) => lease.ack_with(result).await,
        Ending::Failed(why) => lease.nack(why).await,
        Ending::Dead(why) => lease.dead_letter(why).await,
        Ending::Passed(why) => lease.pass_later(why, PASS_PAUSE).await,
        Ending::Cancelled(why, receipt) => lease.cancelled_by(why, receipt.clone()).await,
        Ending::GivenBack(why) => lease.give_back(why).await,
        Ending::Lost(_) => Ok(Settled::Stale),
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
