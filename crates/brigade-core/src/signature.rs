//! The types of a task as text, and whether a call fits them.

use std::any::type_name;

/// The types of a task as text. It compares equal between processes of one build.
#[doc(hidden)]
pub fn signature<A, R>() -> &'static str {
    type_name::<fn(A) -> R>()
}

/// Whether a call of these types may be made of a task of those: they are the same, or the task has
/// more arguments at its end which are all an `Option`.
pub fn fits(call: &str, task: &str) -> bool {
    if call == task {
        return true;
    }
    let (Some((given, result)), Some((wanted, result_too))) = (split(call), split(task)) else {
        return false;
    };
    let (given, wanted) = (arguments(given), arguments(wanted));
    let is_option =
        |argument: &&str| argument.starts_with(type_name::<Option<()>>().trim_end_matches("<()>"));
    result == result_too
        && wanted.starts_with(&given)
        && wanted[given.len()..].iter().all(is_option)
}

/// Arguments and result of `fn((A, B)) -> R`.
fn split(signature: &str) -> Option<(&str, &str)> {
    let rest = signature.strip_prefix("fn(")?;
    let end = closing(rest)?;
    let (tuple, result) = (&rest[..end], &rest[end + 1..]);
    Some((tuple.strip_prefix('(')?.strip_suffix(')')?, result))
}

/// Where the bracket is closed that is open at the beginning.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
        None
    })
}

/// What stands between the commas that are in no brackets.
fn arguments(tuple: &str) -> Vec<&str> {
    let (mut depth, mut before) = (0_i32, '\0');
    let is_comma = |c: char| {
        match c {
            '(' | '[' | '<' => depth += 1,
            // The one of an arrow closes nothing.
            '>' if before == '-' => {}
            ')' | ']' | '>' => depth -= 1,
            _ => {}
        }
        before = c;
        c == ',' && depth == 0
    };
    tuple
        .split(is_comma)
        .map(str::trim)
        .filter(|argument| !argument.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_fits_a_task_that_has_more_arguments_only_if_they_are_options_at_its_end() {
        let fit = |call: fn() -> &'static str, task: fn() -> &'static str| fits(call(), task());
        type One = (std::collections::BTreeMap<u8, (u8, fn(u8) -> u8)>,);
        type Two = (
            std::collections::BTreeMap<u8, (u8, fn(u8) -> u8)>,
            Option<(u8, u8)>,
        );
        assert!(
            fit(signature::<One, u8>, signature::<Two, u8>)
                && fit(
                    signature::<(), u8>,
                    signature::<(Option<u8>, Option<()>), u8>
                )
        );
        assert!(
            !fit(signature::<One, u8>, signature::<Two, u16>)
                && !fit(signature::<Two, u8>, signature::<One, u8>)
        );
        assert!(
            !fit(signature::<(u8,), ()>, signature::<(u8, u8), ()>)
                && !fit(signature::<(u8,), ()>, signature::<(Option<u8>, u8), ()>)
        );
    }
}
