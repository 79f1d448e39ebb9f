//! Text that others wrote (a peer, a task, a worker), for logs, tables and terminals of this side.

use std::borrow::Cow;

/// The text up to so many bytes, with a mark in the place of what would end a line, move a cursor
/// or turn the direction of writing.
pub fn printable(text: &str, bytes_max: usize) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}');
    shorten(text, bytes_max)
        .chars()
        .map(|c| {
            if c.is_control() || turns(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// As [`printable`], with its lines one after the other: for a place in a line of ours.
pub fn one_line(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Cow::Owned(printable(&lines.join("; "), bytes_max))
}

/// The beginning of a text.
pub fn shorten(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_one_short_line() {
        assert_eq!(
            printable("a\x1b[31mb\r\nc\0\u{202e}d\u{9b}é", 100),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}\u{fffd}d\u{fffd}é"
        );
        assert_eq!(printable("ééé", 3), "é");
    }

    #[test]
    fn lines_become_one() {
        assert_eq!(one_line("a plain text", 100), "a plain text");
        assert_eq!(
            one_line("left != right\n  left: 1\r\n\n right: 2\n", 100),
            "left != right; left: 1; right: 2"
        );
        assert_eq!(
            one_line("ok\n2026-01-01 forged\x1b[2J", 100),
            "ok; 2026-01-01 forged\u{fffd}[2J"
        );
        assert_eq!(one_line("long", 2), "lo");
    }
}
