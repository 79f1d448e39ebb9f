//! Names of keys, and ids: `emails/17` outside, the number with leading zeros within its queue.

use crate::error::{Error, ErrorKind};
use crate::job::JobId;

/// The list of queues.
pub(super) const QUEUES: &str = "brigade:queues";

/// The queues that were counted lately, by their last minute; on the node that has the list.
pub(super) const COUNTED: &str = "brigade:{brigade:queues}:counted";

/// A key of a queue. The braces make a cluster keep all of a queue's together.
pub(super) fn key(queue: &str, name: &str) -> String {
    format!("brigade:{{{queue}}}:{name}")
}

const ID_DIGITS: usize = 16;

pub(super) fn id_of(queue: &str, number: &str) -> JobId {
    JobId::new(format!("{queue}/{}", number.trim_start_matches('0')))
}

/// Queue and number of an id; `None` if it is not of this broker's kind.
pub(super) fn parts_of(id: &JobId) -> Option<(&str, String)> {
    let (queue, number) = id.as_str().rsplit_once('/')?;
    let is_number = !number.is_empty()
        && number.len() <= ID_DIGITS
        && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| (queue, format!("{number:0>ID_DIGITS$}")))
}

/// A brace in a queue's name would end the hash tag of its keys.
pub(super) fn check_name(queue: &str) -> Result<(), Error> {
    if queue.contains(['{', '}']) {
        return Err(Error::new(
            ErrorKind::BadOption,
            format!("name a queue {queue:?} on Redis: a name has no braces"),
        ));
    }
    Ok(())
}

/// An id that no job has, for what is asked about ids of other brokers.
pub(super) fn no_such(id: &JobId) -> Error {
    Error::new(
        ErrorKind::BadOption,
        format!("look for job {id}: ids of this broker look like emails/17"),
    )
}
