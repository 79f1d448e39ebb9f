//! Sandboxes: what each profile stops is tried in a worker that has it, what the worker must still
//! be able to do works, and what the host cannot keep is refused.
//!
//! The scenarios run as the user of the tests, as an ordinary user, and in a user namespace of that
//! user, each in a program of its own (`place`). `attacks` has the rows of the table in
//! `docs/guide/untrusted-code.md`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod attacks;
mod calls;
mod choice;
mod place;
mod table;

brigade::test_workers!();
