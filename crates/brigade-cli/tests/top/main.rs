//! `brigade top` as a user sees it: tmux is the terminal, and the brokers are real.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "starts tmux and the binary under test, and waits for facts of a terminal"
)]

mod ends;
mod pool;
mod queues;
mod sizes;
mod terminal;
