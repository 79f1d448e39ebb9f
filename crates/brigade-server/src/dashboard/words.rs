//! Numbers, durations and moments as people read them.
//!
//! A moment is written twice, relative to now and exactly, and the page shows one of the two: the
//! exact one in the title, or for all moments when the key `u` was pressed. Exact times are UTC;
//! the script writes them in the time zone of the browser.

use std::fmt;
use std::time::{Duration, SystemTime};

use brigade::JobState;

/// A duration to the digits that matter: `3 ms`, `2.1 s`, `14 min`, `3 h 20 min`, `2 days`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() == 0 && !duration.is_zero() => {
            format!("{} µs", duration.as_micros())
        }
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => match seconds / 60 % 60 {
            0 => format!("{} h", seconds / 3600),
            minutes => format!("{} h {minutes} min", seconds / 3600),
        },
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A number with commas: `1,204`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, which takes an `s`.
pub(super) fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", number(count))
}

/// A rate: `412`, `3.5`, `0.2`.
pub(super) fn rate(per_minute: f64) -> String {
    if per_minute == 0.0 {
        "0".to_owned()
    } else if per_minute < 0.05 {
        "< 0.1".to_owned()
    } else if per_minute < 9.95 {
        let text = format!("{per_minute:.1}");
        text.strip_suffix(".0").unwrap_or(&text).to_owned()
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate of jobs is positive and far below 2^63"
        )]
        let whole = per_minute.round() as u64;
        number(whole)
    }
}

/// Bytes: `3.2 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let value = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", value / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", value / 1_048_576.0),
        _ => format!("{:.1} GiB", value / 1_073_741_824.0),
    }
}

/// The word for a state on the pages. A leased job runs.
pub(super) fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Scheduled => "scheduled",
        JobState::Ready => "ready",
        JobState::Blocked => "blocked",
        JobState::Leased => "running",
        JobState::Retrying => "retrying",
        JobState::Done => "done",
        JobState::Dead => "dead",
        JobState::Cancelled => "cancelled",
    }
}

/// The state of this name in an address.
pub(super) fn state_of(name: &str) -> Option<JobState> {
    JobState::ALL
        .into_iter()
        .find(|state| state_word(*state) == name || state.to_string() == name)
}

/// A moment, relative and exact. `Display` writes a `time` element, of digits and our own words
/// alone.
#[derive(Clone, Debug)]
pub(super) struct ShownTime {
    relative: String,
    exact: String,
    iso: String,
}

impl ShownTime {
    pub(super) fn new(moment: SystemTime, now: SystemTime) -> Self {
        let relative = match now.duration_since(moment) {
            Ok(ago) if ago < Duration::from_secs(1) => "now".to_owned(),
            Ok(ago) => format!("{} ago", whole(ago)),
            Err(ahead) if ahead.duration() < Duration::from_secs(1) => "now".to_owned(),
            Err(ahead) => format!("in {}", whole(ahead.duration())),
        };
        let timestamp = jiff::Timestamp::try_from(moment).unwrap_or_default();
        let exact = timestamp.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        Self {
            relative,
            exact,
            iso: format!("{timestamp:.3}"),
        }
    }

    /// For programs: RFC 3339.
    pub(super) fn iso(&self) -> &str {
        &self.iso
    }

    /// `2026-11-30 05:12:01 UTC`.
    pub(super) fn exact(&self) -> &str {
        &self.exact
    }
}

impl fmt::Display for ShownTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            relative,
            exact,
            iso,
        } = self;
        write!(
            f,
            "<time datetime=\"{iso}\" title=\"{exact}\"><span class=\"rel\">{relative}</span>\
                <span class=\"abs\">{exact}</span></time>"
        )
    }
}

impl askama::filters::HtmlSafe for ShownTime {}

/// A span without tenths, for texts that change by themselves.
fn whole(duration: Duration) -> String {
    span(Duration::from_secs(duration.as_secs())).replace(".0 s", " s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_digits_that_matter() {
        let words = |ms| span(Duration::from_millis(ms));
        assert_eq!(words(3), "3 ms");
        assert_eq!(words(2_140), "2.1 s");
        assert_eq!(words(14 * 60_000), "14 min");
        assert_eq!(words(12_000_000), "3 h 20 min");
        assert_eq!(words(3 * 86_400_000), "3 days");
    }

    #[test]
    fn numbers_have_commas_and_rates_few_digits() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_204), "1,204");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(3.46), "3.5");
        assert_eq!(rate(5.0), "5");
        assert_eq!(rate(411.7), "412");
        assert_eq!(count(1, "job"), "1 job");
        assert_eq!(count(2_000, "job"), "2,000 jobs");
    }

    #[test]
    fn a_moment_is_relative_and_exact() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let moment = ShownTime::new(now - Duration::from_secs(5), now);
        assert_eq!(moment.exact(), "2001-09-09 01:46:35 UTC");
        assert!(moment.to_string().contains(">5 s ago<"), "{moment}");
        let later = ShownTime::new(now + Duration::from_secs(180), now).to_string();
        assert!(later.contains(">in 3 min<"), "{later}");
    }

    #[test]
    fn a_state_has_one_word() {
        for state in JobState::ALL {
            assert_eq!(state_of(state_word(state)), Some(state));
        }
        assert_eq!(state_of("leased"), Some(JobState::Leased));
        assert_eq!(state_of("odd"), None);
    }
}
