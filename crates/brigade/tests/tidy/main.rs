//! What a machine can check of the source, so that no reader has to.
//!
//! One file for each concept: `sizes` (length of files and module headers), `types` (each type name
//! is defined once), `words` (plain English), `imports` (no circles between files), `layers`
//! (modules point downwards), `crates` (crates point downwards), `packages` (what a registry
//! wants), `protocol` (the wire protocols are documented), `leftovers` (notes to oneself, machine
//! paths) and `checklist` (ids of the catalogue). `source` reads files and takes code and prose
//! apart.
//!
//! Rules that do not hold everywhere yet have a budget. A test fails when the count is above its
//! budget, and also when it is below, so that the budget is lowered with each improvement.

mod checklist;
mod crates;
mod imports;
mod layers;
mod leftovers;
mod packages;
mod protocol;
mod sizes;
mod source;
mod types;
mod words;

/// Fails with the offenders, one a line.
fn none(what: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{what}:\n{}", offenders.join("\n"));
}

/// Fails unless there are exactly as many offenders as the budget says.
fn within(what: &str, budget: usize, offenders: &[String]) {
    let found = offenders.len();
    assert!(
        found <= budget,
        "{what}: {found}, the budget is {budget}; the new ones are among these:\n{}",
        offenders.join("\n")
    );
    assert!(
        found == budget,
        "{what}: {found}, the budget is {budget}; lower it"
    );
}
