//! What is checked of a message that came: strings and numbers that other programs chose.
//!
//! A job's id reaches logs, environments of programs and file names; a queue, a task or an id with
//! a control character in it could end a consumer that uses it. So each is checked here, once,
//! where it is read. What fails is that message's fault: it goes to the dead letters with the
//! reason, or as a call is answered as rejected; the consumer goes on.
//!
//! Numbers and times are capped instead, as any value is a valid number: a timeout that is longer
//! than [`FAR`](crate::clock::FAR) is one of that.

use brigade_core::options::Options;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::incoming::SUBSTITUTE;
use super::values::{number_of, str_of, text_of};
use crate::policy::check_name;

/// The `type` property of an answer: a queue of jobs refuses it.
pub(super) const ANSWER: &str = "brigade.answer";
/// Ours begin at 0 and grow by one.
const SEQ_MAX: u64 = 1 << 53;

fn strings(properties: &BasicProperties) -> [(&'static str, &Option<ShortString>); 10] {
    [
        ("message_id", properties.message_id()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("expiration", properties.expiration()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ]
}

/// Whether a text has no place in a log line, a name or an environment.
pub(super) fn is_unprintable(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Fails with what is wrong with the properties of a message, as a reason.
pub(super) fn check_properties(properties: &BasicProperties) -> Result<(), String> {
    if str_of(properties.kind()) == ANSWER {
        return Err("it is an answer to a call, and this is a queue of jobs".to_owned());
    }
    for (name, text) in strings(properties) {
        let text = str_of(text);
        if !is_unprintable(text) {
            continue;
        }
        let what = if text.bytes().any(|byte| byte == SUBSTITUTE) {
            "bytes that are not UTF-8, or control characters"
        } else {
            "control characters"
        };
        return Err(format!("its {name} {text:?} has {what}"));
    }
    match properties.headers() {
        Some(headers) => check_headers(headers),
        None => Ok(()),
    }
}

/// Headers of ours have the form that we give them, also if another program wrote them.
fn check_headers(headers: &FieldTable) -> Result<(), String> {
    for name in ["brigade-task", "brigade-options"] {
        if headers.contains_key(name) && text_of(headers, name).is_none() {
            return Err(format!("its header {name} is not a text in UTF-8"));
        }
    }
    for name in [
        "brigade-seq",
        "brigade-failed",
        "brigade-crashed",
        "brigade-interrupted",
        "brigade-pushed-at",
        "brigade-due",
        "brigade-lost",
        "brigade-deliveries",
        "brigade-unserved",
        "brigade-unserved-at",
    ] {
        if headers.contains_key(name) && number_of(headers, name).is_none() {
            return Err(format!("its header {name} is not a whole number from 0"));
        }
    }
    match headers.inner().get("brigade-task") {
        Some(AMQPValue::LongString(task)) => check_name("task", &task.to_string())
            .map_err(|error| format!("its header brigade-task is wrong: {error}")),
        _ => Ok(()),
    }
}

/// The same for the options of a job, whose times are capped.
pub(super) fn check_options(options: &mut Options) -> Result<(), String> {
    for (what, text) in [
        ("label", &options.label),
        ("key", &options.key),
        ("partition", &options.partition),
        ("unique key", &options.unique),
    ] {
        if let Some(text) = text.as_deref().filter(|text| is_unprintable(text)) {
            return Err(format!(
                "the {what} in its options, {text:?}, has control characters"
            ));
        }
    }
    *options = std::mem::take(options).bounded();
    Ok(())
}

/// The number of a message, how often it was written again; `None` for one that no message of ours
/// has.
pub(super) fn check_seq(seq: Option<u64>) -> Option<u64> {
    seq.filter(|seq| *seq <= SEQ_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::message::dead_letter;
    use super::super::publisher::Message;
    use super::*;
    use crate::clock::FAR;

    #[test]
    fn a_message_with_a_control_character_in_any_string_is_refused() {
        let all: [fn(BasicProperties, ShortString) -> BasicProperties; 10] = [
            BasicProperties::with_message_id,
            BasicProperties::with_correlation_id,
            BasicProperties::with_reply_to,
            BasicProperties::with_content_type,
            BasicProperties::with_content_encoding,
            BasicProperties::with_expiration,
            BasicProperties::with_type,
            BasicProperties::with_user_id,
            BasicProperties::with_app_id,
            BasicProperties::with_cluster_id,
        ];
        for with in all {
            for text in ["\0", "a\nb", "\u{1b}[2J", "\u{85}"] {
                let properties = with(BasicProperties::default(), text.into());
                assert!(check_properties(&properties).is_err(), "{properties:?}");
                let message = Message {
                    queue: "q".into(),
                    body: bytes::Bytes::new(),
                    properties,
                };
                let dead = dead_letter("q", "q.dead".into(), "no", message);
                assert_eq!(check_properties(&dead.properties), Ok(()));
            }
            assert_eq!(
                check_properties(&with(BasicProperties::default(), "füñ".into())),
                Ok(())
            );
        }
    }

    #[test]
    fn headers_of_ours_in_another_form_are_refused_and_others_are_not() {
        let with = |name: &str, value: AMQPValue| {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), value);
            check_properties(&BasicProperties::default().with_headers(headers))
        };
        assert!(with("brigade-task", AMQPValue::LongInt(3)).is_err());
        assert!(with("brigade-task", AMQPValue::LongString("a\0b".into())).is_err());
        assert!(with("brigade-task", AMQPValue::LongString(vec![0xff].into())).is_err());
        assert!(
            with(
                "brigade-task",
                AMQPValue::LongString("x".repeat(201).into())
            )
            .is_err()
        );
        assert!(with("brigade-failed", AMQPValue::LongInt(-1)).is_err());
        assert!(with("brigade-due", AMQPValue::LongString("soon".into())).is_err());
        assert!(with("their-own", AMQPValue::LongString("a\0b".into())).is_ok());
    }

    #[test]
    fn enormous_times_are_capped() {
        let mut options = Options {
            timeout: Some(Duration::MAX),
            keep: Some(Duration::MAX),
            ..Options::default()
        };
        options.retry = Some(crate::retry::Retry::default().within(Duration::MAX));
        check_options(&mut options).unwrap();
        assert_eq!(
            (
                options.timeout,
                options.retry.and_then(|retry| retry.within),
                options.keep
            ),
            (Some(FAR), Some(FAR), Some(FAR))
        );
        assert_eq!(
            (check_seq(Some(7)), check_seq(Some(u64::MAX))),
            (Some(7), None)
        );
    }
}
