//! Untrusted text on a terminal: other people push payloads and reasons, and a terminal obeys
//! control characters.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Control characters, and those that turn the direction of text or break its lines.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text on one line, harmless.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_unsafe(char) {
            escaped.extend(char.escape_default())
        } else {
            escaped.push(char)
        }
    }
    Cow::Owned(escaped)
}

/// The same JSON value on one line, harmless: without white space between its tokens, and with
/// escapes in its strings. Numbers and the order of fields stay as they were written.
pub(crate) fn compact_json(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_string, mut after_backslash) = (false, false);
    for char in json.chars() {
        if !in_string {
            in_string = char == '"';
            if !matches!(char, ' ' | '\t' | '\r' | '\n') {
                compact.push(char);
            }
            continue;
        }
        // All of them are below 0x10000, so one escape each will do; writing to a String cannot
        // fail.
        if is_unsafe(char) {
            write!(compact, "\\u{:04x}", u32::from(char)).unwrap_or(())
        } else {
            compact.push(char)
        }
        in_string = char != '"' || after_backslash;
        after_backslash = char == '\\' && !after_backslash;
    }
    compact
}

/// At most so many characters; the rest is an ellipsis.
pub(crate) fn cut(text: &str, width: usize) -> Cow<'_, str> {
    match text.char_indices().nth(width) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(
            text.chars()
                .take(width.saturating_sub(1))
                .chain(['…'])
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_come_through() {
        assert_eq!(escape("plain ü"), "plain ü");
        assert_eq!(
            escape("a\x1b[31m\nb\u{9b}\u{202e}"),
            "a\\u{1b}[31m\\nb\\u{9b}\\u{202e}"
        );
    }

    #[test]
    fn json_keeps_its_value_and_loses_its_white_space() {
        let wild =
            "{ \"a\\\\\" : [ 1.50 , \"x \\\" y\u{9b}\" ],\n\t\"b\" : 12345678901234567890123 }";
        let compact = compact_json(wild);
        assert_eq!(
            compact,
            "{\"a\\\\\":[1.50,\"x \\\" y\\u009b\"],\"b\":12345678901234567890123}"
        );
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(wild), value(&compact));
    }

    #[test]
    fn a_cut_counts_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
