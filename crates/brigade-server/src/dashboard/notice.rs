//! [`Notice`]: what an action did, on the page after it.
//!
//! The redirect after an action says what was done by a word of a closed list and numbers, in the
//! query. The text is made from these, so a link made by someone else cannot put words into a page.

use serde::Deserialize;

use super::viewer::encoded;
use super::words::count;

/// What the query of a page says of the action before it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Done {
    /// What was done.
    pub(super) did: Option<String>,
    /// How many it was done to, in digits.
    pub(super) n: Option<String>,
    /// The queue that it was done to, on a page of many.
    pub(super) name: Option<String>,
    /// The limits before, for the undo.
    pub(super) was: Option<String>,
}

/// A line on the page after an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Notice {
    pub(super) text: String,
    /// The path and the fields of the form that undoes it.
    pub(super) undo: Option<(String, Vec<(&'static str, String)>)>,
}

impl Notice {
    fn new(text: impl Into<String>) -> Option<Self> {
        Some(Self {
            text: text.into(),
            undo: None,
        })
    }

    /// Of an action on a queue, whose path this is.
    pub(super) fn of_queue(done: &Done, path: &str) -> Option<Self> {
        let undo = |text: &str, action: &str, fields| {
            Some(Self {
                text: text.to_owned(),
                undo: Some((format!("{path}/{action}"), fields)),
            })
        };
        match done.did.as_deref()? {
            "paused" => undo(
                "Paused. Its jobs wait until it is resumed; what runs goes on.",
                "resume",
                Vec::new(),
            ),
            "resumed" => undo("Resumed.", "pause", Vec::new()),
            "limited" => {
                let was = done.was.clone().unwrap_or_default();
                undo("The limits are changed.", "limits", vec![("was", was)])
            }
            "purged" => Self::new(format!(
                "Removed {} that waited.",
                count(
                    done.n.as_deref().and_then(|n| n.parse().ok()).unwrap_or(0),
                    "job"
                )
            )),
            _ => None,
        }
    }

    /// Of an action on a job.
    pub(super) fn of_job(done: &Done) -> Option<Self> {
        Self::new(match done.did.as_deref()? {
            "pushed" => "Pushed. This page follows the job to its end.",
            "duplicate" => "Nothing was pushed: there is a job with this unique key, this one.",
            "retried" => "Given back to its queue, its counters at zero.",
            "cancelled" => "Cancelled: it had not started.",
            "asked" => {
                "Its holder was asked to stop it. The receipt appears below as soon as it has."
            }
            "nothing" => "Nothing was changed: the job had ended, or was not in that state.",
            _ => return None,
        })
    }

    /// Of an action on a schedule, or on a list.
    pub(super) fn of_list(done: &Done) -> Option<Self> {
        let of_queue = |did: &str, action: &str| {
            let name = done.name.as_deref()?;
            Some(Self {
                text: format!("{did} {name}."),
                undo: Some((format!("/queues/{}/{action}", encoded(name)), Vec::new())),
            })
        };
        Self::new(match done.did.as_deref()? {
            "paused" => return of_queue("Paused", "resume"),
            "resumed" => return of_queue("Resumed", "pause"),
            "deleted" => "Deleted.".to_owned(),
            "unscheduled" => "Removed. Jobs that it has pushed stay.".to_owned(),
            "checked" => "The broker is checked; the findings appear below.".to_owned(),
            "nothing" => "Nothing was changed: it was not there any more.".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_words_become_a_notice() {
        let done = |did: &str| Done {
            did: Some(did.to_owned()),
            ..Done::default()
        };
        assert_eq!(Notice::of_job(&done("<b>Call 555-1234</b>")), None);
        assert_eq!(Notice::of_queue(&Done::default(), "/queues/mail"), None);
        let paused = Notice::of_queue(&done("paused"), "/queues/mail").unwrap();
        assert_eq!(paused.undo.unwrap().0, "/queues/mail/resume");
    }
}
