//! JSON text with one value a line, and nothing else changed.
//!
//! A number may have more digits than any type of ours, and an object a name twice: so only the
//! spaces change, and numbers and strings stay byte for byte what they were. Text that is no JSON
//! stays as it is, and so does text that would become far longer: deep in arrays, each number gets
//! a line with all the spaces before it.

use serde::de::IgnoredAny;

/// How many times longer the spaced text may be.
const GROWTH_MAX: usize = 8;
/// What short text may grow to in any case.
const SHORT: usize = 64 << 10;

/// JSON with one value a line; text that is none stays as it is.
pub(super) fn indented(text: &str) -> String {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => spaced(text).unwrap_or_else(|| text.to_owned()),
        Err(_) => text.to_owned(),
    }
}

/// Whether both are the same but for the space between values. A browser sends `\r\n` for each end
/// of a line of a field.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let form = |text: &str| {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        indented(text.trim())
    };
    form(one) == form(other)
}

/// The text of valid JSON, spaced; `None` if that would be too long.
fn spaced(text: &str) -> Option<String> {
    let most = (text.len() * GROWTH_MAX).max(SHORT);
    let mut spaced = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string_length(rest),
            other => other.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after.trim_start();
        match first {
            '{' | '[' if rest.starts_with(['}', ']']) => {
                let (end, after) = rest.split_at(1);
                spaced.push_str(token);
                spaced.push_str(end);
                rest = after.trim_start();
            }
            '{' | '[' => {
                depth += 1;
                spaced.push(first);
                new_line(&mut spaced, depth, most)?;
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut spaced, depth, most)?;
                spaced.push(first);
            }
            ',' => {
                spaced.push(first);
                new_line(&mut spaced, depth, most)?;
            }
            ':' => spaced.push_str(": "),
            _ => spaced.push_str(token),
        }
    }
    Some(spaced)
}

/// The bytes of the string that the text begins with, with its quotes.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (place, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

fn new_line(spaced: &mut String, depth: usize, most: usize) -> Option<()> {
    if spaced.len() + 2 * depth > most {
        return None;
    }
    spaced.push('\n');
    spaced.extend(std::iter::repeat_n("  ", depth));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_byte_for_byte() {
        let text =
            r#"{"id":123456789012345678901,"x":1.10e+400,"b":-0.0,"b":[ ],"a":{"k, [\"]":null}}"#;
        let expected = r#"{
  "id": 123456789012345678901,
  "x": 1.10e+400,
  "b": -0.0,
  "b": [],
  "a": {
    "k, [\"]": null
  }
}"#;
        assert_eq!(indented(text), expected);
        assert_eq!(indented(expected), expected);
    }

    #[test]
    fn strings_keep_their_escapes_and_their_space() {
        let text = r#"["\\", "é \u00e9 \" ] , ", "" , true]"#;
        let expected = "[\n  \"\\\\\",\n  \"é \\u00e9 \\\" ] , \",\n  \"\",\n  true\n]";
        assert_eq!(indented(text), expected);
        assert_eq!(indented(" \"a  b\"\n"), "\"a  b\"");
        assert_eq!(indented(" 7 "), "7");
    }

    #[test]
    fn text_that_is_no_json_stays() {
        for text in ["", "{", "hello  world", "{\"a\": 1,}", "[1] [2]"] {
            assert_eq!(indented(text), text);
        }
    }

    #[test]
    fn text_that_would_be_far_longer_stays() {
        let numbers = vec!["1"; 10_000].join(",");
        let deep = format!("{}{numbers}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(indented(&deep), deep);
    }

    #[test]
    fn only_the_space_between_values_makes_no_difference() {
        let stored = r#"{"a":[1,"x y"]}"#;
        assert!(is_same(&indented(stored).replace('\n', "\r\n"), stored));
        assert!(!is_same(r#"{"a":[1,"xy"]}"#, stored));
        assert!(!is_same(r#"{"a":[1.0,"x y"]}"#, stored));
        assert!(is_same("no json\r\n", "no json"));
    }
}
