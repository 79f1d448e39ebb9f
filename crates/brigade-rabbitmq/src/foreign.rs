//! Options of a job as programs in other languages give them: JSON that people write by hand.
//!
//! Times are text (`"2s"`, `"1h 30m"`) or whole milliseconds. What is not known is an error and not
//! left out: an option that is mistyped would be believed to hold. A field that is `null` counts as
//! not given.
//!
//! These are functions without state. They read one header of one message; messages of this library
//! have another form and do not come here. Ranges are not checked here but by the caller, with
//! those of all other options.

use brigade_core::options::Options;
use std::time::Duration;

use serde_json::{Map, Value};

/// For errors: all that may stand there.
const NAMES: &str = "retries, retry (base, cap, within), timeout, memory, address_space, \
    cpu, files, processes, file_size, label";

/// Reads the options, or says what is wrong.
pub(super) fn read_options(text: &str) -> Result<Options, String> {
    let fields: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| format!("they are no JSON object: {e}"))?;
    let mut options = Options::default();
    for (name, value) in &fields {
        match name.as_str() {
            // As if it were not there.
            _ if value.is_null() => {}
            "retries" => options.retries = Some(whole(name, value)?),
            "memory" => options.memory = Some(whole(name, value)?),
            "address_space" => options.address_space = Some(whole(name, value)?),
            "cpu" => options.cpu = Some(time(name, value)?),
            "files" => options.files = Some(whole(name, value)?),
            "processes" => options.processes = Some(whole(name, value)?),
            "file_size" => options.file_size = Some(whole(name, value)?),
            "timeout" => options.timeout = Some(time(name, value)?),
            "label" => {
                options.label = Some(
                    value
                        .as_str()
                        .ok_or_else(|| wrong(name, value, "a text"))?
                        .into(),
                )
            }
            "retry" => {
                let pauses = value
                    .as_object()
                    .ok_or_else(|| wrong(name, value, "an object with base, cap and within"))?;
                let retry = options.retry.get_or_insert_default();
                for (name, value) in pauses.iter().filter(|(_, value)| !value.is_null()) {
                    match name.as_str() {
                        "base" => retry.base = time(name, value)?,
                        "cap" => retry.cap = time(name, value)?,
                        "within" => retry.within = Some(time(name, value)?),
                        _ => {
                            return Err(format!(
                                "retry has an unknown field {name:?}; there are base, cap, within"
                            ));
                        }
                    }
                }
            }
            _ => {
                return Err(format!(
                    "there is an unknown field {name:?}; there are {NAMES}"
                ));
            }
        }
    }
    Ok(options)
}

fn whole<T: TryFrom<u64>>(name: &str, value: &Value) -> Result<T, String> {
    let number = value.as_u64().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| wrong(name, value, "a whole number that is not too large"))
}

fn time(name: &str, value: &Value) -> Result<Duration, String> {
    let given = match value {
        Value::String(text) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|time| Duration::try_from(time).ok()),
        value => value.as_u64().map(Duration::from_millis),
    };
    given.ok_or_else(|| {
        wrong(
            name,
            value,
            "a time: a text such as \"2s\" or \"1h 30m\", or whole milliseconds",
        )
    })
}

fn wrong(name: &str, value: &Value, expected: &str) -> String {
    let found: String = value.to_string().chars().take(60).collect();
    format!("{name} is {found}, but must be {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_text_or_milliseconds() {
        let options = read_options(
            r#"{"retries": 3, "retry": {"base": "250ms", "cap": 60000, "within": "1h 30m"}, "timeout": "2s", "memory": 1048576,
                "label": "nightly", "other": null}"#,
        );
        let options = options.unwrap();
        assert_eq!(
            (options.retries, options.timeout, options.memory),
            (Some(3), Some(Duration::from_secs(2)), Some(1 << 20))
        );
        let times = (
            options.retry().base,
            options.retry().cap,
            options.retry().within,
        );
        assert_eq!(
            times,
            (
                Duration::from_millis(250),
                Duration::from_secs(60),
                Some(Duration::from_secs(5_400))
            )
        );
        assert_eq!(options.label.as_deref(), Some("nightly"));
        assert_eq!(read_options("{}").unwrap(), Options::default());
        assert_eq!(
            read_options(r#"{"timeout": 1500}"#).unwrap().timeout,
            Some(Duration::from_millis(1_500))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("nonsense", "no JSON object"),
            ("[]", "no JSON object"),
            (
                r#"{"retrys": 3}"#,
                r#"unknown field "retrys"; there are retries"#,
            ),
            (
                r#"{"retry": {"pause": 3}}"#,
                r#"unknown field "pause"; there are base"#,
            ),
            (r#"{"retry": 3}"#, "retry is 3, but must be an object"),
            (
                r#"{"retries": -1}"#,
                "retries is -1, but must be a whole number",
            ),
            (r#"{"retries": 5000000000}"#, "retries is 5000000000"),
            (
                r#"{"timeout": "soon"}"#,
                r#"timeout is "soon", but must be a time"#,
            ),
            (r#"{"timeout": 1.5}"#, "timeout is 1.5, but must be a time"),
            (r#"{"timeout": "-2s"}"#, r#"timeout is "-2s""#),
            (r#"{"label": 7}"#, "label is 7, but must be a text"),
        ] {
            let error = read_options(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
