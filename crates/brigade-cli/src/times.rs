//! Durations and moments, as people write and read them.

use std::time::{Duration, SystemTime};

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp, Zoned};
use serde::Deserialize as _;

/// `250ms`, `5s`, `2m`, `1h30m`, `3d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let help = || "write a time as 250ms, 5s, 2m, 1h30m or 3d".to_owned();
    let span: Span = text.trim().parse().map_err(|_| help())?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| help())?;
    Duration::try_from(signed).map_err(|_| "a time cannot be negative".to_owned())
}

/// A time in a document that may be left out, written as on the command line.
pub(crate) fn optional<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| duration(&text).map_err(serde::de::Error::custom))
        .transpose()
}

/// `2026-11-22T18:30:00Z`, with any offset or `[Zone/Name]`; `2026-11-22 18:30` and `18:30` (the
/// next one) of the local time zone.
pub(crate) fn moment(text: &str) -> Result<SystemTime, String> {
    moment_after(text, &Zoned::now())
}

fn moment_after(text: &str, now: &Zoned) -> Result<SystemTime, String> {
    let text = text.trim();
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment.into());
    }
    if let Ok(moment) = text.parse::<Zoned>() {
        return Ok(moment.timestamp().into());
    }
    let local = |moment: DateTime| {
        moment
            .to_zoned(now.time_zone().clone())
            .map_err(|e| e.to_string())
    };
    if let Ok(moment) = text.parse::<DateTime>() {
        return Ok(local(moment)?.timestamp().into());
    }
    let Ok(time) = text.parse::<Time>() else {
        return Err("write a moment as 18:30, 2026-11-22 18:30 or 2026-11-22T18:30:00Z".to_owned());
    };
    let today = local(now.date().to_datetime(time))?;
    if today > *now {
        return Ok(today.timestamp().into());
    }
    let tomorrow = now.date().tomorrow().map_err(|e| e.to_string())?;
    Ok(local(tomorrow.to_datetime(time))?.timestamp().into())
}

/// A duration as it is read: `1h 30m`.
pub(crate) fn short(duration: Duration) -> String {
    let mut span = Span::new();
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let parts = [
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        i64::from(duration.subsec_millis()),
    ];
    let set = [
        Span::try_days,
        Span::try_hours,
        Span::try_minutes,
        Span::try_seconds,
        Span::try_milliseconds,
    ];
    for (part, set) in parts.into_iter().zip(set) {
        span = set(span, part).unwrap_or(span);
    }
    format!("{span:#}")
}

/// For programs: RFC 3339, UTC. That has no year after 9999, so a later moment is the last that it
/// can write in every time zone, and one before the year 0 its beginning.
pub(crate) fn rfc3339(moment: SystemTime) -> String {
    const YEAR_0: i64 = -62_167_219_200_000;
    match Timestamp::try_from(moment) {
        Ok(moment) if moment.as_millisecond() >= YEAR_0 => format!("{moment:.3}"),
        Err(_) if moment > SystemTime::UNIX_EPOCH => "9999-12-30T22:00:00.000Z".to_owned(),
        _ => "0000-01-01T00:00:00.000Z".to_owned(),
    }
}

/// For people: local time, to the second.
pub(crate) fn local(moment: SystemTime) -> String {
    Timestamp::try_from(moment).map_or_else(
        |_| "after the year 9999".to_owned(),
        |moment| {
            moment
                .to_zoned(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        let good = [
            ("250ms", 250),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("3d", 259_200_000),
            ("0s", 0),
        ];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["15m", "100ms", "1h 30m", "7d 1s", "36500d"] {
            assert_eq!(short(duration(text).unwrap()), text);
        }
        for text in ["", "5", "-5s", "5 parsecs", "1 month", "s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_as_people_write_them() {
        let now: Zoned = "2026-11-21T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let cases = [
            ("2026-11-22T18:30:00Z", "2026-11-22T18:30:00.000Z"),
            ("2026-11-22T18:30:00+02:00", "2026-11-22T16:30:00.000Z"),
            ("2026-11-22 18:30", "2026-11-22T17:30:00.000Z"),
            ("18:30", "2026-11-21T17:30:00.000Z"),
            ("06:30", "2026-11-22T05:30:00.000Z"),
        ];
        for (text, at) in cases {
            assert_eq!(
                moment_after(text, &now).map(rfc3339),
                Ok(at.to_owned()),
                "{text}"
            );
        }
        for text in ["", "tomorrow", "25:00", "2026-02-30"] {
            assert!(moment_after(text, &now).is_err(), "{text}");
        }
    }
}
