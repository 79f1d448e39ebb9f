//! Which reasons of dead letters belong together.

use crate::printable::shorten;

/// Longest pattern.
pub const PATTERN_BYTES_MAX: usize = 200;

/// The pattern of a reason: its first line with `#` in place of each number, at most 200 bytes.
/// Dead letters of one pattern belong together in a list.
///
/// ```
/// # use brigade_core::policy::reason_pattern;
/// assert_eq!(reason_pattern("timed out after 30.2 s\nmore"), "timed out after #.# s");
/// ```
pub fn reason_pattern(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    let mut pattern = String::with_capacity(line.len().min(PATTERN_BYTES_MAX + 4));
    for letter in line.chars() {
        let is_number = letter.is_ascii_digit();
        if pattern.len() >= PATTERN_BYTES_MAX {
            break;
        }
        if !is_number {
            pattern.push(letter);
        } else if !pattern.ends_with('#') {
            pattern.push('#');
        }
    }
    shorten(&pattern, PATTERN_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_have_one_pattern() {
        assert_eq!(reason_pattern("job 17 of host-3"), "job # of host-#");
        assert_eq!(reason_pattern("job 1800 of host-4"), "job # of host-#");
        assert_ne!(reason_pattern("refused"), reason_pattern("timed out"));
    }

    #[test]
    fn a_pattern_is_one_short_line() {
        assert_eq!(reason_pattern(""), "");
        assert_eq!(reason_pattern("a\nb"), "a");
        let long = reason_pattern(&"é1".repeat(10_000));
        assert!(long.len() <= 200 && long.starts_with("é#é#"), "{long}");
    }
}
