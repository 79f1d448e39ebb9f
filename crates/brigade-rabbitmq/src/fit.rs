//! What fits into a frame: the properties and headers of a message go in one, whose size the broker
//! and the client agree on (`frame_max`).
//!
//! A larger one would end the connection, and so each next one on which it is tried. What a job has
//! gathered is shortened until it fits: first its history, then headers of other programs, the
//! largest first. What does not fit even so is refused before it is sent.

use lapin::BasicProperties;
use lapin::protocol::basic::gen_properties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::publisher::Message;
use super::values::table;

/// Type, channel, size, class, weight, size of the body, mark of the end.
const AROUND: usize = 7 + 12 + 1;
/// Headers that may go, in this order.
const OPTIONAL: [&str; 3] = [
    "brigade-history",
    "brigade-pass-reasons",
    "brigade-passed-by",
];

/// How many bytes the frame with these properties has.
pub(super) fn frame_bytes(properties: &BasicProperties) -> usize {
    // What cannot be written at all fits nowhere.
    gen_properties::<Vec<u8>>(properties)(Vec::new().into())
        .map_or(usize::MAX, |written| written.into_inner().0.len() + AROUND)
}

pub(super) fn fits(properties: &BasicProperties, frame_max: usize) -> bool {
    // Most have no headers, and the rest is ten short strings at most.
    properties.headers().is_none() && frame_max >= 4096 || frame_bytes(properties) <= frame_max
}

/// Leaves out what may be left out until the message fits.
pub(super) fn fitted(mut message: Message, frame_max: usize) -> Message {
    while !fits(&message.properties, frame_max) {
        let Some(headers) = message.properties.headers() else {
            break;
        };
        let Some(name) = least_needed(headers) else {
            break;
        };
        tracing::warn!(
            queue = message.queue.as_str(),
            header = name.as_str(),
            frame_max,
            "a header of a message is left out: it does not fit"
        );
        let mut left = headers.inner().clone();
        left.remove(&name);
        message.properties = std::mem::take(&mut message.properties).with_headers(left.into());
    }
    message
}

/// The header that is to go next.
fn least_needed(headers: &FieldTable) -> Option<ShortString> {
    let optional = OPTIONAL
        .into_iter()
        .find(|name| headers.contains_key(name))
        .map(ShortString::from);
    let size = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => text.len(),
        AMQPValue::FieldTable(_) | AMQPValue::FieldArray(_) | AMQPValue::ByteArray(_) => {
            let alone = table([("", value.clone())]);
            frame_bytes(&BasicProperties::default().with_headers(alone))
        }
        _ => 8,
    };
    optional.or_else(|| {
        let all = headers.inner().iter();
        let theirs = all.filter(|(name, _)| !name.as_str().starts_with("brigade-"));
        let largest = theirs.max_by_key(|(_, value)| size(value));
        largest.map(|(name, _)| name.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[(&str, usize)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, bytes) in headers {
            table.insert(
                (*name).into(),
                AMQPValue::LongString("x".repeat(*bytes).into()),
            );
        }
        BasicProperties::default()
            .with_message_id("id".into())
            .with_headers(table)
    }

    #[test]
    fn the_size_is_that_of_the_frame() {
        // Flags, and of each header: the length of its name, the name, its type, its length.
        let properties = with(&[("ab", 10)]);
        assert_eq!(
            frame_bytes(&properties),
            AROUND + 2 + 4 + (1 + 2 + 1 + 4 + 10) + 3
        );
        assert!(
            fits(&properties, frame_bytes(&properties))
                && !fits(&properties, frame_bytes(&properties) - 1)
        );
    }

    #[test]
    fn what_does_not_fit_loses_its_history_first_then_the_largest_header_of_others() {
        let message = Message {
            queue: "q".into(),
            body: bytes::Bytes::new(),
            properties: with(&[
                ("brigade-history", 3000),
                ("brigade-task", 100),
                ("large", 3000),
                ("small", 30),
            ]),
        };
        let names = |frame_max| -> Vec<String> {
            let fitted = fitted(message.clone(), frame_max);
            fitted
                .properties
                .headers()
                .iter()
                .flat_map(|table| table.inner().keys())
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            names(8192),
            ["brigade-history", "brigade-task", "large", "small"]
        );
        assert_eq!(names(4096), ["brigade-task", "large", "small"]);
        assert_eq!(names(1000), ["brigade-task", "small"]);
        assert_eq!(names(10), ["brigade-task"]);
    }
}
