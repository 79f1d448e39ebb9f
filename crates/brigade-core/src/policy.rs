//! What all stores, and the pool, decide alike: when an attempt is repeated, when it is too late to
//! begin one, what a history keeps, which sizes are allowed, how long ended jobs are kept.
//!
//! Values only: nothing here reads a clock of a broker, a file or a socket. SQL and Lua get the
//! constants from here.

mod admission;
mod history;
mod reasons;
mod retries;

use std::time::Duration;

pub use admission::{check_call, check_job, check_limits, check_name, check_payload, delay_of};
pub use history::{add_record, record_from_kind};
pub use reasons::{PATTERN_BYTES_MAX, reason_pattern};
pub use retries::{Charged, ChargedEnd, NoRetry, RetryDecision, RetryPolicy, RetryRule};

/// Largest payload of a job, and of the results that a job of a flow collects: far below what each
/// broker could take. Larger data belongs in a file that the job names.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Longest name of a queue or a schedule.
pub const NAME_BYTES_MAX: usize = 200;
/// Longest key, unique key, partition and label of a job: each of them is stored with the job, and
/// some in indexes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Attempts kept in the history of a job; the newest stay.
pub const HISTORY_MAX: usize = 20;
/// How long a cancelled job can be looked at.
pub const CANCELLED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long the result of a call stays for its caller.
pub const RESULT_KEPT: Duration = Duration::from_secs(60);
/// Longest reason of a parent that a job of a flow is shown.
pub const MISSED_BYTES_MAX: usize = 300;
/// Parents that are named to a job of a flow; the others are counted.
pub const MISSED_NAMED_MAX: i64 = 3;
/// Follows the reason of an attempt whose repetition would be too late.
pub const NEXT_TOO_LATE: &str = " (and its next attempt would begin too late)";
/// The reason of a job that had to begin by now and had no attempt.
pub const NEVER_BEGAN: &str = "no attempt began within the time that it had";
/// The reason of a job that had to begin by now and has had attempts; their number follows.
pub const OUT_OF_TIME: &str = "the time for its attempts is over; it has had ";

/// Why a job is a dead letter that had to begin by now, after so many attempts.
pub fn too_late(attempts: u32) -> String {
    match attempts {
        0 => NEVER_BEGAN.to_owned(),
        attempts => format!("{OUT_OF_TIME}{attempts}"),
    }
}
