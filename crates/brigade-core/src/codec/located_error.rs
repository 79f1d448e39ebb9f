//! [`LocatedError`]: a format's own error, with the message of the type that refused a value.
//!
//! A type may refuse a value in its own words (`Error::custom`). Postcard drops them, so they are
//! kept aside there: the last ones of each thread, until the whole value is written or read. What
//! needs a second try, as untagged enums do, postcard cannot carry, so the last words are why it
//! failed.

use std::cell::{Cell, RefCell};
use std::fmt;

thread_local! {
    static DROPS_WORDS: Cell<bool> = const { Cell::new(false) };
    static TEXT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Begins with a value, in a format that drops what types say or one that does not.
pub(super) fn begin(drops_words: bool) {
    DROPS_WORDS.set(drops_words);
    TEXT.take();
}

/// What a type said last, if the format drops that.
pub(super) fn text() -> Option<String> {
    TEXT.take()
}

#[derive(Debug)]
pub(super) struct LocatedError<E>(pub(super) E);

impl<E: fmt::Display> fmt::Display for LocatedError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TEXT.with_borrow(|text| match text {
            Some(text) => f.write_str(text),
            None => self.0.fmt(f),
        })
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for LocatedError<E> {}

/// Keeps a message where the format would drop it.
fn keep(text: &str) {
    if DROPS_WORDS.get() {
        TEXT.replace(Some(text.to_owned()));
    }
}

impl<E: serde::ser::Error> serde::ser::Error for LocatedError<E> {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        keep(&text);
        Self(E::custom(text))
    }
}

impl<E: serde::de::Error> serde::de::Error for LocatedError<E> {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        keep(&text);
        Self(E::custom(text))
    }
}
