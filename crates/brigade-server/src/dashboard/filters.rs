//! What templates write in a way of their own.

#![expect(unreachable_pub, reason = "the macro makes public types of them")]

use askama::Values;

use super::viewer::encoded;
use super::words;

/// A number with commas.
#[askama::filter_fn]
pub(super) fn number(number: &u64, _: &dyn Values) -> askama::Result<String> {
    Ok(words::number(*number))
}

/// Text as a value in an address.
#[askama::filter_fn]
pub(super) fn enc(text: impl AsRef<str>, _: &dyn Values) -> askama::Result<String> {
    Ok(encoded(text.as_ref()))
}
