//! The two streams that a program writes to.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StandardStream {
    Stdout,
    Stderr,
}
