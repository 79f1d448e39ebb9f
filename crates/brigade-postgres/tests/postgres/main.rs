//! What is special of PostgreSQL; everything else is in the conformance suite.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod open_transactions;
mod plans;
