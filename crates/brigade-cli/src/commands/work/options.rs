//! The command line of `brigade work`.

use std::ffi::OsString;
use std::time::Duration;

use super::limits::LimitOptions;
use super::sandbox::SandboxOptions;
use crate::times;
use crate::trace::TraceOptions;

/// Run a program for each job of a queue
///
/// The program gets the payload as JSON on its standard input. In its arguments, {} is replaced by
/// the payload and {name} by that field of a JSON object, strings without their quotes. Write {{}}
/// and {{name}} for the braces themselves; ${name} stays. The environment has BRIGADE_JOB,
/// BRIGADE_QUEUE and BRIGADE_ATTEMPT, BRIGADE_TICK for a job of a schedule, and TRACEPARENT for a
/// job of a trace.
///
/// Exit code 0 is done: if the job is kept, the first 64 KiB of standard output are its result, as
/// JSON or else as a JSON string. Exit code 75 passes the job, uncharged. Any other end is a
/// failure, with the end of standard error as the reason. Each program runs in its own process
/// group. When it ends, all that it started is killed, also what left the group.
///
/// After the first SIGINT or SIGTERM the command takes no more jobs and waits for the running
/// programs; the second kills them and gives their jobs back, uncharged. If the same signal also
/// ends a program, its job is given back, uncharged.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  brigade work emails -j 4 -- python3 send.py
  brigade work scripts --sandbox compute --write /srv/out -- python3 -I -
  brigade work images --until-empty -- convert {file} -resize {width} out/{file}")]
pub(crate) struct Work {
    /// Queue to serve
    #[arg(value_name = "QUEUE")]
    pub(super) queue: String,

    /// Programs that run at once
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) jobs: u16,

    /// End when the queue has no job that will still run; exit code 1 if a job became a dead letter
    #[arg(long)]
    pub(super) until_empty: bool,

    /// How long a job stays leased if this process is lost; renewed while its program runs
    #[arg(long, value_name = "TIME", value_parser = lease_time, default_value = "30s")]
    pub(super) lease: Duration,

    /// Time from SIGTERM to SIGKILL for a program that is stopped
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "5s")]
    pub(super) kill_after: Duration,

    #[command(flatten)]
    pub(super) limits: LimitOptions,

    /// Let a program that crashes leave a core dump, as far as the limit of this process allows
    #[arg(long)]
    pub(super) core_dumps: bool,

    /// Give programs the broker's URL, with its password, as BRIGADE_URL [default: not set]
    #[arg(long)]
    pub(super) pass_broker_url: bool,

    #[command(flatten)]
    pub(super) sandbox: SandboxOptions,

    #[command(flatten)]
    pub(super) trace: TraceOptions,

    /// Program and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true, num_args = 1..)]
    pub(super) command: Vec<OsString>,
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
