//! Workers on other hosts. The test is the master; each host is a program of its own, this very
//! binary started again (`stage`), joined over a TCP connection or through the proxy of the test
//! kit, which breaks it.
//!
//! Names begin with the id of the fault checklist where there is one (G43, G44). By default the
//! seeded fault test makes 8,000 calls; `BRIGADE_FULL=1` makes 100,000. `BRIGADE_SEED` repeats a
//! run.

#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod calls;
mod endings;
mod faults;
#[path = "../pool/gate.rs"]
mod gate;
mod large;
mod leave;
mod link;
mod mismatch;
mod own_options;
mod place;
mod stage;
mod tasks;

brigade::test_workers!();
