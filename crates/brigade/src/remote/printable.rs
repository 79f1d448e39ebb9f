//! Text of a peer, for logs, tables and terminals of this side.

use crate::outcome::shorten;

/// The text up to so many bytes, with a mark in the place of what would end a line, move a cursor or turn the direction of writing.
pub(crate) fn printable(text: &str, bytes_max: usize) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}');
    shorten(text, bytes_max).chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_one_short_line() {
        assert_eq!(printable("a\x1b[31mb\r\nc\0\u{202e}d\u{9b}é", 100), "a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}\u{fffd}d\u{fffd}é");
        assert_eq!(printable("ééé", 3), "é");
    }
}
