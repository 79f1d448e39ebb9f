//! [`run`]: each case on each store, as a test program does it.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

use crate::case::Case;
use crate::cases;
use crate::child_process;
use crate::tested_store::TestedStore;

/// Runs the suite on these stores, with the arguments of this process: those of the standard test
/// harness. `main` calls it first and returns its exit code.
///
/// In a worker process, and in the other processes that cases start, it does not return.
#[must_use]
pub fn run(stores: &[&'static dyn TestedStore]) -> ExitCode {
    brigade::init();
    if let Some(code) = child_process::run(stores, cases::handlers::hang) {
        return code;
    }
    let arguments = Arguments::from_args();
    let trials = stores
        .iter()
        .flat_map(|store| cases::all().map(|case| trial(*store, case)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn trial(store: &'static dyn TestedStore, case: &'static Case) -> Trial {
    let name = format!("{}::{}", store.name(), case.name());
    let missing = case.missing(&store.capabilities());
    if missing.is_empty() {
        return Trial::test(name, move || Ok(case.run(store)?));
    }
    let reason = format!("not declared: {}", missing.join(", "));
    Trial::ignorable_test(name, || Ok(Completion::ignored_with(reason))).with_ignored_flag(true)
}
