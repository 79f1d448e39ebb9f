//! [`Notice`]: what an action did, on the page after it.
//!
//! The redirect after an action says what was done by a word of a closed list and numbers, in the
//! query, and has the key of its undo ([`Undos`]). The text is made from these, so a link made by
//! someone else can neither put words into a page nor offer an undo.

use serde::Deserialize;

use super::undo::Undos;
use super::viewer::queue_path;
use super::words::count;

/// What the query of a page says of the action before it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Done {
    /// What was done.
    pub(super) did: Option<String>,
    /// How many it was done to, in digits.
    pub(super) n: Option<String>,
    /// The queue or schedule that it was done to, on a page of many.
    pub(super) name: Option<String>,
    /// The key of its undo.
    pub(super) undo: Option<String>,
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

    /// With the undo of an action on what has this path, if this server made it.
    fn with_undo(mut self, done: &Done, path: &str, undos: &Undos) -> Self {
        let undo = done.undo.as_deref().and_then(|key| undos.find(key, path));
        self.undo = undo.map(|undo| (format!("{path}/{}", undo.action), undo.fields));
        self
    }

    /// Of an action on a queue.
    pub(super) fn of_queue(done: &Done, queue: &str, undos: &Undos) -> Option<Self> {
        let notice = Self::new(match done.did.as_deref()? {
            "paused" => "Paused. Its jobs wait until it is resumed; what runs goes on.".to_owned(),
            "resumed" => "Resumed.".to_owned(),
            "pushed" => "Pushed.".to_owned(),
            "limited" => "The limits are changed.".to_owned(),
            "purged" => format!(
                "Removed {} that waited.",
                count(
                    done.n.as_deref().and_then(|n| n.parse().ok()).unwrap_or(0),
                    "job"
                )
            ),
            _ => return None,
        });
        notice.map(|notice| notice.with_undo(done, &queue_path(queue), undos))
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

    /// Of an action on a list of queues or schedules, whose paths are these.
    pub(super) fn of_list(done: &Done, path_of: fn(&str) -> String, undos: &Undos) -> Option<Self> {
        let of_one = |did: &str| {
            let name = done.name.as_deref()?;
            let notice = Self::new(format!("{did} {name}."))?;
            Some(notice.with_undo(done, &path_of(name), undos))
        };
        Self::new(match done.did.as_deref()? {
            "paused" => return of_one("Paused"),
            "resumed" => return of_one("Resumed"),
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
    use super::super::undo::Undo;
    use super::*;

    #[test]
    fn only_known_words_become_a_notice() {
        let done = |did: &str| Done {
            did: Some(did.to_owned()),
            ..Done::default()
        };
        assert_eq!(Notice::of_job(&done("<b>Call 555-1234</b>")), None);
        let undos = Undos::default();
        assert_eq!(Notice::of_queue(&Done::default(), "mail", &undos), None);
        let paused = Notice::of_queue(&done("paused"), "mail", &undos).unwrap();
        assert_eq!(paused.undo, None);
    }

    #[test]
    fn only_an_undo_of_this_server_is_offered() {
        let undos = Undos::default();
        let undo = Undo {
            action: "limits",
            fields: vec![("was", "none".to_owned())],
        };
        let mut done = Done {
            did: Some("limited".to_owned()),
            undo: Some(undos.keep("/queues/mail", undo)),
            ..Done::default()
        };
        let limited = Notice::of_queue(&done, "mail", &undos).unwrap();
        let fields = vec![("was", "none".to_owned())];
        let expected = ("/queues/mail/limits".to_owned(), fields);
        assert_eq!(limited.undo, Some(expected));
        let other = Notice::of_queue(&done, "report", &undos).unwrap();
        assert_eq!(other.undo, None);
        done.undo = Some("made up".to_owned());
        let made_up = Notice::of_queue(&done, "mail", &undos).unwrap();
        assert_eq!(made_up.undo, None);
    }
}
