//! A cron expression in a time zone.
//!
//! The rules of Vixie cron, by croner: an expression with one second, one minute and one hour (a
//! *fixed time*) has one tick on each day that it names; a day counts by both of its fields if one
//! of them begins with `*` (also `*/2`), else by either. Where clocks go forwards over that time,
//! the tick is the first moment after; where they go back, the first of the two. Every other
//! expression follows real time: it skips what the clocks skip and has the hour that comes twice
//! twice. A day that a zone leaves out has no tick.

use std::borrow::Cow;
use std::str::FromStr as _;

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use crate::error::{Error, ErrorKind};

pub(super) struct Cron {
    expression: Box<str>,
    pattern: croner::Cron,
    zone: TimeZone,
}

/// A longer expression is a mistake.
const EXPRESSION_BYTES_MAX: usize = 500;
const ZONE_BYTES_MAX: usize = 100;

/// A field: its name, what may stand in it, and the words among that.
struct Field {
    name: &'static str,
    range: &'static str,
    words: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"];

const FIELDS: [Field; 6] = [
    Field {
        name: "second",
        range: "0 to 59",
        words: &[],
    },
    Field {
        name: "minute",
        range: "0 to 59",
        words: &[],
    },
    Field {
        name: "hour",
        range: "0 to 23",
        words: &[],
    },
    Field {
        name: "day of the month",
        range: "1 to 31, L, or with W",
        words: &["L", "W", "LW"],
    },
    Field {
        name: "month",
        range: "1 to 12 or JAN to DEC",
        words: &MONTHS,
    },
    Field {
        name: "day of the week",
        range: "0 to 7 or SUN to SAT, or with # or L",
        words: &DAYS,
    },
];

impl Cron {
    pub(super) fn new(expression: &str, zone: &str) -> Result<Self, Error> {
        if expression.len() > EXPRESSION_BYTES_MAX {
            let text = format!(
                "schedule by an expression of {} bytes: {EXPRESSION_BYTES_MAX} are allowed",
                expression.len()
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        let refuse = |why: String| {
            Error::new(
                ErrorKind::BadOption,
                format!("schedule by {expression:?}: {why}"),
            )
        };
        if let Some(why) = first_fault(expression) {
            return Err(refuse(why));
        }
        let pattern = parser()
            .parse(&as_vixie_means(expression))
            .map_err(|e| refuse(e.to_string()).with_source(e))?;
        Ok(Self {
            expression: expression.into(),
            pattern,
            zone: find_zone(zone)?,
        })
    }

    /// The first tick after a time.
    pub(super) fn after(&self, time: i64) -> Result<i64, Error> {
        let never = || {
            Error::new(
                ErrorKind::BadOption,
                format!("schedule by {:?}: no date ever matches it", self.expression),
            )
        };
        // Ticks are at whole seconds, so what is after the time is after its second.
        let mut from = Timestamp::from_second(time.div_euclid(1000)).map_err(|_| never())?;
        loop {
            let start = from.to_zoned(self.zone.clone());
            let found = match self.pattern.find_next_occurrence(&start, false) {
                Ok(found) => found,
                // It gives up on a fixed time in a gap of many hours.
                Err(_) => match self.end_of_next_lost_day(from) {
                    Some(end) if self.matches(&end) => end,
                    Some(end) => {
                        from = end.timestamp();
                        continue;
                    }
                    None => return Err(never()),
                },
            };
            if found.timestamp() <= from {
                return Err(never());
            }
            if !self.matches(&found) && self.lost_before(found.timestamp()) > GAP_SECONDS_MAX {
                // It stands for a time of a day that there was not.
                from = found.timestamp();
                continue;
            }
            return Ok(found.timestamp().as_millisecond());
        }
    }

    fn matches(&self, time: &Zoned) -> bool {
        self.pattern.is_time_matching(time).unwrap_or(false)
    }

    /// Seconds that the zone's clocks left out at the change that ends at this moment.
    fn lost_before(&self, moment: Timestamp) -> i32 {
        let Ok(before) = moment.checked_sub(jiff::SignedDuration::from_secs(1)) else {
            return 0;
        };
        self.zone.to_offset(moment).seconds() - self.zone.to_offset(before).seconds()
    }

    /// When the zone's clocks next leave out more than any summer time does.
    fn end_of_next_lost_day(&self, from: Timestamp) -> Option<Zoned> {
        let changes = self
            .zone
            .following(from)
            .take(ZONE_CHANGES_MAX)
            .map(|change| change.timestamp());
        changes
            .into_iter()
            .find(|change| self.lost_before(*change) > GAP_SECONDS_MAX)
            .map(|change| change.to_zoned(self.zone.clone()))
    }
}

/// Summer time adds an hour, in one place two; what is more is a zone that crossed the date line.
const GAP_SECONDS_MAX: i32 = 2 * 3600;
/// A lifetime of summer times.
const ZONE_CHANGES_MAX: usize = 200;

fn parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build()
}

/// The expression as croner says what Vixie cron means by it.
///
/// For Vixie cron, a field of a day that begins with `*` is one that is not given, even with a
/// step: a day then has to match both fields. croner knows that only of a plain `*`; its `+` before
/// the day of the week asks for both.
fn as_vixie_means(expression: &str) -> Cow<'_, str> {
    if expression.trim().eq_ignore_ascii_case("@midnight") {
        return "@daily".into();
    }
    let mut fields: Vec<&str> = expression.split_whitespace().collect();
    let [.., day, _, weekday] = fields[..] else {
        return expression.into();
    };
    let is_stepped = |field: &str| field.starts_with('*') && field != "*";
    if weekday.starts_with('+') || !(is_stepped(day) || is_stepped(weekday)) {
        return expression.into();
    }
    let both = format!("+{weekday}");
    fields.pop();
    fields.push(&both);
    fields.join(" ").into()
}

/// Of the system, which is kept up to date, or else the one in this program: a slim container has
/// none, and some systems leave out old names.
fn find_zone(name: &str) -> Result<TimeZone, Error> {
    let is_name = name.len() <= ZONE_BYTES_MAX
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
    let found = || {
        jiff::tz::db()
            .get(name)
            .or_else(|_| TimeZoneDatabase::bundled().get(name))
    };
    match is_name.then(found) {
        Some(Ok(zone)) => Ok(zone),
        Some(Err(e)) => Err(no_zone(name).with_source(e)),
        None => Err(no_zone(name)),
    }
}

fn no_zone(name: &str) -> Error {
    let shown: String = name.chars().take(ZONE_BYTES_MAX).collect();
    Error::new(
        ErrorKind::BadOption,
        format!(
            "schedule in the time zone {shown:?}: there is none of that name; they are as \
                Europe/Berlin or UTC"
        ),
    )
}

/// What is wrong, and where: the parser says neither which field nor what it may hold, and takes
/// names in any field.
fn first_fault(expression: &str) -> Option<String> {
    if expression.trim_start().starts_with('@') {
        return fault_of_name(expression.trim());
    }
    let given: Vec<&str> = expression.split_whitespace().collect();
    let fields = match given.len() {
        6 => &FIELDS[..],
        5 => &FIELDS[1..],
        count => {
            return Some(format!(
                "it has {count} {}; there are five, minute, hour, day of the month, month, day of \
                    the week, or six with the second first",
                if count == 1 { "field" } else { "fields" }
            ));
        }
    };
    let wrong = given
        .iter()
        .zip(fields)
        .enumerate()
        .find(|(_, (text, field))| !field.takes(text))?;
    let (index, (text, Field { name, range, .. })) = wrong;
    let part = text
        .split(',')
        .find(|part| !fields[index].takes(part))
        .filter(|part| part != text);
    let part = part.map_or_else(String::new, |part| format!("{part:?} is none, there are "));
    Some(format!(
        "its field {}, {text:?}, is no {name}: {part}{range}, joined by , - and /, or *",
        index + 1
    ))
}

/// Those of Vixie cron, but for the one that a broker cannot have.
fn fault_of_name(name: &str) -> Option<String> {
    if name.eq_ignore_ascii_case("@reboot") {
        return Some(
            "a broker is no host that boots: @reboot has no time; push a job when your \
            program starts"
                .to_owned(),
        );
    }
    if name.eq_ignore_ascii_case("@midnight") || croner::Cron::from_str(name).is_ok() {
        return None;
    }
    let every = if name.to_ascii_lowercase().starts_with("@every") {
        "; an interval is Schedule::every, on the command line '@every 15m'"
    } else {
        ""
    };
    Some(format!(
        "there are @hourly, @daily or @midnight, @weekly, @monthly and @yearly or @annually{every}"
    ))
}

impl Field {
    fn takes(&self, text: &str) -> bool {
        let upper = text.to_uppercase();
        let words = upper
            .split(|c: char| !c.is_alphabetic())
            .filter(|word| !word.is_empty());
        let known = |word: &str| {
            self.words.contains(&word)
                || word
                    .strip_suffix('L')
                    .is_some_and(|day| self.words.contains(&day))
        };
        let others = FIELDS.iter().map(|field| {
            if field.name == self.name {
                Cow::Borrowed(text)
            } else {
                "*".into()
            }
        });
        words.into_iter().all(known)
            && parser()
                .parse(&others.collect::<Vec<_>>().join(" "))
                .is_ok()
    }
}
