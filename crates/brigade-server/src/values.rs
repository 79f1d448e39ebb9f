//! Times and moments as requests and documents write them.
//!
//! A time is a number of seconds, or text as on the command line: `250ms`, `5s`, `2m`, `1h30m`,
//! `3d`. Documents have seconds. A moment is RFC 3339; documents have it in UTC, to the
//! millisecond.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::{Span, SpanRelativeTo, Timestamp};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A time in a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub(crate) Duration);

/// A moment in a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub(crate) SystemTime);

const HELP: &str = "write a time as seconds (5, 0.25) or as 250ms, 5s, 2m, 1h30m or 3d";

impl Seconds {
    fn of_number(seconds: f64) -> Result<Self, &'static str> {
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| HELP)
    }

    fn of_text(text: &str) -> Result<Self, &'static str> {
        if let Ok(seconds) = text.trim().parse::<f64>() {
            return Self::of_number(seconds);
        }
        let span: Span = text.trim().parse().map_err(|_| HELP)?;
        let signed = span.to_duration(SpanRelativeTo::days_are_24_hours());
        let time = signed.ok().and_then(|time| Duration::try_from(time).ok());
        time.map(Self).ok_or(HELP)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;

        impl Visitor<'_> for TimeVisitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(HELP)
            }

            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Seconds, E> {
                Seconds::of_number(seconds).map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Seconds, E> {
                Ok(Seconds(Duration::from_secs(seconds)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Seconds, E> {
                Seconds::of_text(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(TimeVisitor)
    }
}

impl PartialSchema for Seconds {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0.0))
            .description(Some("seconds"));
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^[0-9]+(ms|s|m|h|d)$"))
            .description(Some("as 250ms, 5s, 2m, 1h or 3d"));
        OneOfBuilder::new().item(number).item(text).into()
    }
}

impl ToSchema for Seconds {}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment = text.parse::<Timestamp>().map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is no moment: write it as 2026-11-22T18:30:00Z"
            ))
        })?;
        Ok(Self(moment.into()))
    }
}

/// A moment in a document. One that the format cannot have is the nearest that it can.
pub(crate) fn rfc3339(moment: SystemTime) -> String {
    let nearest = || match moment < SystemTime::UNIX_EPOCH {
        true => Timestamp::MIN,
        false => Timestamp::MAX,
    };
    let moment = Timestamp::try_from(moment).unwrap_or_else(|_| nearest());
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_of_seconds_or_text() {
        let read = |json: &str| serde_json::from_str::<Seconds>(json).map(|time| time.0);
        assert_eq!(read("5").unwrap(), Duration::from_secs(5));
        assert_eq!(read("0.25").unwrap(), Duration::from_millis(250));
        assert_eq!(read("\"1h30m\"").unwrap(), Duration::from_secs(5400));
        assert_eq!(read("\"7\"").unwrap(), Duration::from_secs(7));
        for wrong in [
            "-1", "\"-5s\"", "\"soon\"", "1e300", "\"\"", "null", "\"inf\"",
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("write a time"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_moment_is_rfc_3339() {
        let read = |json: &str| serde_json::from_str::<Moment>(json).map(|moment| moment.0);
        let moment = read("\"2026-11-22T18:30:00+01:00\"").unwrap();
        assert_eq!(rfc3339(moment), "2026-11-22T17:30:00.000Z");
        assert!(
            read("\"tomorrow\"")
                .unwrap_err()
                .to_string()
                .contains("tomorrow")
        );
    }
}
