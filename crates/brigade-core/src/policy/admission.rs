//! What is refused before a pool or a broker takes it: the one place that checks the ranges of
//! options, names and payloads.
//!
//! The callers are `Pool` and `Broker`, before they ask a store, so no store has checks of its own.
//! Whatever is refused here has changed nothing. What only some stores cannot do is the business of
//! their capabilities.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use crate::attempt_limits::AttemptLimits;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::options::Options;
use crate::schedule::LAST_MILLIS;

/// Refuses a job that could never be run.
///
/// # Errors
///
/// `TooLarge` for a payload over the limit, `Decode` for one that is not JSON, `BadOption` for a
/// name that no queue or task can have, for a key, unique key, partition or label of more than
/// [`KEY_BYTES_MAX`] bytes, for an option out of its range, and for a time that is too far away or
/// that its own limit excludes.
pub fn check_job(job: &Job, payload_bytes_max: usize) -> Result<(), Error> {
    check_payload(
        &format!("push to {:?}", job.queue),
        &job.payload,
        payload_bytes_max,
    )?;
    if let Err(e) = serde_json::from_str::<&serde_json::value::RawValue>(&job.payload) {
        let text = format!("push to {:?}: the payload is not JSON: {e}", job.queue);
        return Err(Error::new(ErrorKind::Decode, text).with_source(e));
    }
    check_name("queue", &job.queue)?;
    if let Some(task) = &job.task {
        check_name("task", task)?;
    }
    check_texts(job)?;
    check_ranges(&format!("push to {:?}", job.queue), &job.options)?;
    check_date(job)?;
    check_window(job)
}

/// Refuses a job with a text that is too long to be stored with each job.
fn check_texts(job: &Job) -> Result<(), Error> {
    let options = &job.options;
    let texts = [
        ("key", &options.key),
        ("unique key", &options.unique),
        ("partition", &options.partition),
        ("label", &options.label),
    ];
    for (what, text) in texts {
        let bytes = text.as_ref().map_or(0, |text| text.len());
        if bytes > KEY_BYTES_MAX {
            let text = format!(
                "push to {:?}: its {what} has {bytes} bytes and {KEY_BYTES_MAX} are allowed: put \
                    longer text into the payload",
                job.queue
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
    }
    Ok(())
}

/// For how long from now a job is not due.
pub fn delay_of(options: &Options, now: SystemTime) -> Duration {
    match options.at {
        Some(at) => at.duration_since(now).unwrap_or_default(),
        None => options.delay.unwrap_or_default(),
    }
}

/// Refuses options that a call in a pool cannot have.
///
/// # Errors
///
/// `Unsupported` for those of jobs at a broker, `BadOption` for one out of its range.
pub fn check_call(options: &Options) -> Result<(), Error> {
    let is_for_a_broker = options.key.is_some()
        || options.partition.is_some()
        || options.unique.is_some()
        || options.keep.is_some();
    if is_for_a_broker {
        let text = "call a pool with a key, a partition, a unique key or a time to keep: those are \
            for jobs at a broker";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    check_ranges("make a call", options)
}

/// Refuses options with which nothing could run anywhere.
fn check_ranges(what: &str, options: &Options) -> Result<(), Error> {
    if options.timeout == Some(Duration::ZERO) {
        let text = format!("{what} with a timeout of zero: give it more time, or none");
        return Err(Error::new(ErrorKind::BadOption, text));
    }
    check_limits(what, &options.limits())
}

/// Least memory for an attempt: below it, a worker cannot even answer.
const MEMORY_MIN: u64 = 1 << 20;
/// Least CPU time for an attempt: that of a few ticks of the kernel's clock.
const CPU_MIN: Duration = Duration::from_millis(10);

/// Refuses limits that contradict each other, or with which nothing could run.
///
/// # Errors
///
/// `BadOption`.
pub fn check_limits(what: &str, limits: &AttemptLimits) -> Result<(), Error> {
    let refuse = |text: String| Err(Error::new(ErrorKind::BadOption, format!("{what} {text}")));
    match *limits {
        AttemptLimits {
            memory: Some(bytes),
            ..
        } if bytes < MEMORY_MIN => refuse(format!(
            "with {bytes} bytes of memory: give it at least 1 MiB, or no limit"
        )),
        AttemptLimits {
            address_space: Some(bytes),
            ..
        } if bytes < MEMORY_MIN => refuse(format!(
            "with {bytes} bytes of address space: give it at least 1 MiB, or no limit"
        )),
        AttemptLimits {
            memory: Some(memory),
            address_space: Some(space),
            ..
        } if space < memory => refuse(format!(
            "with {memory} bytes of memory in {space} bytes of address space, where they do not \
                fit: give it at least as much address space"
        )),
        AttemptLimits {
            cpu: Some(time), ..
        } if time < CPU_MIN => refuse(format!(
            "with {time:?} of CPU time: give it at least {CPU_MIN:?}, or no limit"
        )),
        AttemptLimits { files: Some(0), .. } => {
            refuse("with 0 open files: give it at least 1, or no limit".to_owned())
        }
        _ => Ok(()),
    }
}

/// Refuses a payload over the limit.
///
/// # Errors
///
/// `TooLarge`.
pub fn check_payload(what: &str, payload: &str, payload_bytes_max: usize) -> Result<(), Error> {
    let bytes = payload.len();
    if bytes <= payload_bytes_max {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!("{what}: the payload has {bytes} bytes and {payload_bytes_max} are allowed"),
    ))
}

/// The first moment that cannot be written as RFC 3339 in every time zone.
const YEAR_10000: Duration = Duration::from_millis(LAST_MILLIS.unsigned_abs());

/// Refuses a job whose date cannot be stored and shown.
fn check_date(job: &Job) -> Result<(), Error> {
    let options = &job.options;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let refuse = |what: String| {
        let text = format!(
            "push to {:?}: {what}; it has to be before the year 10000",
            job.queue
        );
        Err(Error::new(ErrorKind::BadOption, text))
    };
    match (options.at, options.delay) {
        (Some(at), _)
            if at
                .duration_since(UNIX_EPOCH)
                .is_ok_and(|since| since >= YEAR_10000) =>
        {
            refuse("its time is too far away".to_owned())
        }
        (None, Some(delay)) if now.saturating_add(delay) >= YEAR_10000 => {
            refuse(format!("it is due in {delay:?}, which is too far away"))
        }
        _ => Ok(()),
    }
}

/// Refuses a job that is due only when its time for attempts is over.
fn check_window(job: &Job) -> Result<(), Error> {
    let Some(within) = job.options.retry().within else {
        return Ok(());
    };
    let delay = delay_of(&job.options, SystemTime::now());
    if delay <= within {
        return Ok(());
    }
    let text = format!(
        "push to {:?}: it is due in {delay:?}, and no attempt may begin later than in {within:?} \
            (Retry::within)",
        job.queue
    );
    Err(Error::new(ErrorKind::BadOption, text))
}

/// Refuses a name that no queue, schedule or group can have.
///
/// # Errors
///
/// `BadOption`.
pub fn check_name(what: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let text = format!(
            "name a {what} {name:?}: a name has 1 to {NAME_BYTES_MAX} bytes and no control \
                characters"
        );
        return Err(Error::new(ErrorKind::BadOption, text));
    }
    Ok(())
}
