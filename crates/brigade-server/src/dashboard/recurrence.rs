//! When a schedule has its ticks, in words.
//!
//! The usual cron expressions become a sentence ("every day at 03:00"). All others, and those whose
//! words would be less exact than the expression (steps that do not divide an hour or a day, days
//! of the month with days of the week), stay as they are.

use brigade::Recurrence;

use super::words::span;

/// In words, with the time zone.
pub(super) fn in_words(recurrence: &Recurrence) -> String {
    match recurrence {
        Recurrence::Every(interval) => format!("every {}", span(*interval).replace(".0 s", " s")),
        Recurrence::Cron { expression, zone } => match cron_in_words(expression) {
            Some((words, has_time)) if has_time => format!("{words} {zone}"),
            Some((words, _)) => words,
            None => format!("cron {expression} ({zone})"),
        },
        _ => "by a rule that this version does not know".to_owned(),
    }
}

/// The words, and whether they name a time of day, which a zone belongs to.
fn cron_in_words(expression: &str) -> Option<(String, bool)> {
    let fixed = |words: &str| Some((format!("{words} at 00:00"), true));
    match expression {
        "@hourly" => return Some(("every hour".to_owned(), false)),
        "@daily" | "@midnight" => return fixed("every day"),
        "@weekly" => return fixed("every Sunday"),
        "@monthly" => return fixed("on the 1st of each month"),
        "@yearly" | "@annually" => return fixed("on 1 January"),
        _ => {}
    }
    let fields: Vec<&str> = expression.split(' ').collect();
    let [minute, hour, day, month, weekday] = *fields.as_slice() else {
        return None;
    };
    let days = days_in_words(day, month, weekday)?;
    let every = |field: &str, unit: &str| {
        let step: u32 = field.strip_prefix("*/")?.parse().ok()?;
        (step > 1).then(|| format!("every {step} {unit}"))
    };
    let on_days = |words: String| match days.as_str() {
        "every day" => words,
        days => format!("{words}, {days}"),
    };
    match (minute, hour) {
        ("*", "*") => Some((on_days("every minute".to_owned()), days != "every day")),
        (minute, "*") if minute.starts_with("*/") => {
            let step: u32 = minute.strip_prefix("*/")?.parse().ok()?;
            (60_u32.is_multiple_of(step)).then_some(())?;
            Some((on_days(every(minute, "minutes")?), days != "every day"))
        }
        (minute, "*") => {
            let minute = number(minute, 59)?;
            let words = match minute {
                0 => "every hour".to_owned(),
                minute => format!("every hour at {minute} min past"),
            };
            Some((on_days(words), days != "every day"))
        }
        ("0", hour) if hour.starts_with("*/") => {
            let step: u32 = hour.strip_prefix("*/")?.parse().ok()?;
            (24_u32.is_multiple_of(step)).then_some(())?;
            Some((on_days(every(hour, "hours")?), true))
        }
        (minute, hour) => {
            let minute = number(minute, 59)?;
            let hours: Option<Vec<String>> = hour
                .split(',')
                .map(|hour| Some(format!("{:02}:{minute:02}", number(hour, 23)?)))
                .collect();
            Some((format!("{days} at {}", listed(&hours?)), true))
        }
    }
}

fn days_in_words(day: &str, month: &str, weekday: &str) -> Option<String> {
    if month != "*" {
        return None;
    }
    match (day, weekday) {
        ("*", "*") => Some("every day".to_owned()),
        ("L", "*") => Some("on the last day of each month".to_owned()),
        (day, "*") => {
            let day = number(day, 31)?;
            Some(format!("on the {} of each month", ordinal(day)))
        }
        ("*", weekday) => {
            let lower = weekday.to_ascii_lowercase();
            if lower == "mon-fri" || lower == "1-5" {
                return Some("Monday to Friday".to_owned());
            }
            let days: Option<Vec<String>> = lower.split(',').map(weekday_name).collect();
            Some(format!("every {}", listed(&days?)))
        }
        _ => None,
    }
}

fn weekday_name(text: &str) -> Option<String> {
    const NAMES: [(&str, &str); 7] = [
        ("sun", "Sunday"),
        ("mon", "Monday"),
        ("tue", "Tuesday"),
        ("wed", "Wednesday"),
        ("thu", "Thursday"),
        ("fri", "Friday"),
        ("sat", "Saturday"),
    ];
    let by_number = text
        .parse::<usize>()
        .ok()
        .and_then(|day| NAMES.get(day % 7));
    let found = NAMES
        .iter()
        .find(|(short, _)| *short == text)
        .or(by_number)?;
    Some(found.1.to_owned())
}

fn number(text: &str, max: u32) -> Option<u32> {
    text.parse().ok().filter(|number| *number <= max)
}

fn ordinal(day: u32) -> String {
    let ending = match (day % 10, day % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{day}{ending}")
}

fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_usual_expressions_are_sentences() {
        for (expression, words) in [
            ("0 3 * * *", "every day at 03:00 Europe/Berlin"),
            (
                "30 3 * * mon-fri",
                "Monday to Friday at 03:30 Europe/Berlin",
            ),
            ("0 9,17 * * *", "every day at 09:00 and 17:00 Europe/Berlin"),
            ("*/15 * * * *", "every 15 minutes"),
            ("0 * * * *", "every hour"),
            ("5 * * * *", "every hour at 5 min past"),
            (
                "0 0 1 * *",
                "on the 1st of each month at 00:00 Europe/Berlin",
            ),
            ("0 6 * * 0", "every Sunday at 06:00 Europe/Berlin"),
            (
                "0 6 * * sat,sun",
                "every Saturday and Sunday at 06:00 Europe/Berlin",
            ),
            ("@daily", "every day at 00:00 Europe/Berlin"),
        ] {
            let recurrence = Recurrence::Cron {
                expression: expression.to_owned(),
                zone: "Europe/Berlin".to_owned(),
            };
            assert_eq!(in_words(&recurrence), words);
        }
        assert_eq!(
            in_words(&Recurrence::Every(Duration::from_secs(900))),
            "every 15 min"
        );
    }

    #[test]
    fn an_expression_without_exact_words_stays_as_it_is() {
        for expression in [
            "*/7 * * * *",
            "0 0 1 1 mon",
            "0 0 * * FRI#2",
            "0 3 * 6 *",
            "0 3-5 * * *",
        ] {
            assert_eq!(cron_in_words(expression), None, "{expression}");
        }
    }
}
