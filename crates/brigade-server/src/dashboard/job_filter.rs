//! [`FilterQuery`]: which jobs a list shows, as it stands in an address.
//!
//! One type for the form of the list, the links to it, exports and operations on many jobs, so that
//! what is touched is what was shown. Times are UTC and to the minute, as the fields of the browser
//! give them. `in_words` says the filter with a number before it, for questions and titles.

use std::time::SystemTime;

use brigade::{JobFilter, JobId};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::shell::Failed;
use super::viewer::encoded;
use super::words::{state_of, state_word};

/// The fields of the filter. An empty one is none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FilterQuery {
    pub(super) queue: String,
    pub(super) state: String,
    pub(super) task: String,
    /// Not empty: only those without a task.
    pub(super) no_task: String,
    pub(super) label: String,
    pub(super) key: String,
    pub(super) text: String,
    pub(super) reason: String,
    /// Not empty: only those without a reason.
    pub(super) no_reason: String,
    /// `2026-11-30T05:12`, UTC.
    pub(super) from: String,
    /// As `from`.
    pub(super) until: String,
    /// `old` lists the oldest first.
    pub(super) order: String,
    /// The job after which the list goes on.
    pub(super) after: String,
}

impl FilterQuery {
    /// As the broker takes it.
    pub(super) fn filter(&self, limit: usize) -> Result<JobFilter, Failed> {
        let some = |text: &str| (!text.is_empty()).then(|| Box::from(text));
        let state = match self.state.as_str() {
            "" => None,
            name => Some(state_of(name).ok_or_else(|| {
                Failed::Form(format!("There is no state {name:?}: pick one of the list."))
            })?),
        };
        Ok(JobFilter {
            queue: some(&self.queue),
            state,
            task: some(&self.task),
            no_task: !self.no_task.is_empty(),
            label: some(&self.label),
            key: some(&self.key),
            text: some(&self.text),
            reason: match self.no_reason.as_str() {
                "" => some(&self.reason),
                _ => Some(Box::default()),
            },
            pushed_from: moment(&self.from)?,
            pushed_until: moment(&self.until)?,
            newest_first: self.order != "old",
            after: (!self.after.is_empty()).then(|| JobId::new(self.after.as_str())),
            limit,
        })
    }

    /// The fields that are set but the position, by name.
    pub(super) fn fields(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("queue", &self.queue),
            ("state", &self.state),
            ("task", &self.task),
            ("no_task", &self.no_task),
            ("label", &self.label),
            ("key", &self.key),
            ("text", &self.text),
            ("reason", &self.reason),
            ("no_reason", &self.no_reason),
            ("from", &self.from),
            ("until", &self.until),
            ("order", &self.order),
        ];
        all.into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name, value.as_str()))
            .collect()
    }

    /// The fields as a query, without the position.
    pub(super) fn query(&self) -> String {
        let fields = self.fields();
        let pairs = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// Whether there are conditions.
    pub(super) fn is_narrow(&self) -> bool {
        self.fields().iter().any(|(name, _)| *name != "order")
    }

    /// Conditions besides queue and state, for the form that hides them.
    pub(super) fn has_more(&self) -> bool {
        let fields = self.fields();
        fields
            .iter()
            .any(|(name, _)| !matches!(*name, "order" | "queue" | "state" | "text"))
    }

    /// What it is about, after a number: ``dead letters of `mail` with reason `timeout` ``.
    pub(super) fn in_words(&self, count: &str) -> String {
        let is_one = count == "1";
        let (one, many) = match state_of(&self.state) {
            Some(brigade::JobState::Dead) => ("dead letter".to_owned(), "dead letters".to_owned()),
            Some(state) => {
                let word = state_word(state);
                (format!("{word} job"), format!("{word} jobs"))
            }
            None => ("job".to_owned(), "jobs".to_owned()),
        };
        let mut words = format!("{count} {}", if is_one { one } else { many });
        let fields = self.fields();
        for (name, before) in [
            ("queue", " of"),
            ("task", " with task"),
            ("label", " with label"),
            ("key", " with key"),
            ("text", " with payload text"),
            ("reason", " with reason"),
            ("no_task", " without a task"),
            ("no_reason", " without a reason"),
            ("from", " pushed from"),
            ("until", " pushed before"),
        ] {
            let Some((_, value)) = fields.iter().find(|(field, _)| *field == name) else {
                continue;
            };
            words.push_str(before);
            if !name.starts_with("no_") {
                words.push_str(&format!(" `{value}`"));
            }
        }
        words
    }
}

/// A moment of a form, UTC.
fn moment(text: &str) -> Result<Option<SystemTime>, Failed> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = text.parse::<DateTime>().ok();
    let zoned = read.and_then(|moment| moment.to_zoned(TimeZone::UTC).ok());
    match zoned {
        Some(zoned) => Ok(Some(zoned.timestamp().into())),
        None => Err(Failed::Form(format!(
            "{text:?} is no time: write it as 2026-11-30T05:12, in UTC."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_says_what_it_will_touch() {
        let filter = FilterQuery {
            queue: "mail".to_owned(),
            state: "dead".to_owned(),
            reason: "timeout".to_owned(),
            ..FilterQuery::default()
        };
        let words = "1,204 dead letters of `mail` with reason `timeout`";
        assert_eq!(filter.in_words("1,204"), words);
        assert_eq!(filter.query(), "queue=mail&state=dead&reason=timeout");
        assert!(filter.is_narrow());
        let bare = FilterQuery {
            no_task: "1".to_owned(),
            no_reason: "1".to_owned(),
            ..FilterQuery::default()
        };
        assert_eq!(bare.in_words("2"), "2 jobs without a task without a reason");
        let bare = bare.filter(1).ok().unwrap();
        assert_eq!((bare.no_task, bare.reason.as_deref()), (true, Some("")));
    }

    #[test]
    fn a_wrong_state_or_time_is_refused() {
        let wrong = |state: &str, from: &str| FilterQuery {
            state: state.to_owned(),
            from: from.to_owned(),
            ..FilterQuery::default()
        };
        assert!(wrong("odd", "").filter(1).is_err());
        assert!(wrong("", "yesterday").filter(1).is_err());
        assert!(wrong("running", "2026-11-30T05:12").filter(1).is_ok());
    }
}
