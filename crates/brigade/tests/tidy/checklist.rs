//! Ids of the catalogue of tests: each stands in the name of a test or is explained in
//! `tests/README.md`.

use std::collections::BTreeSet;

use crate::none;
use crate::source::{files, read, root};

/// The ids of the checklist: a prefix and the numbers that there are.
const IDS: [(&str, &[usize]); 8] = [
    ("wp", &count::<53>()),
    ("wx", &count::<9>()),
    ("pm", &count::<7>()),
    ("pi", &count::<44>()),
    ("tp", &count::<14>()),
    ("issue", &[304, 344, 805, 869, 934]),
    ("l", &count::<13>()),
    ("lb", &count::<17>()),
];

const fn count<const N: usize>() -> [usize; N] {
    let (mut numbers, mut index) = ([0; N], 0);
    while index < N {
        numbers[index] = index + 1;
        index += 1;
    }
    numbers
}

/// The ids in the names of tests: those of functions, and those of `program.rs`, which is its own
/// harness.
fn ids_in_names() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for path in files(&root().join("crates"), ".rs") {
        for line in read(&path).lines().map(str::trim_start) {
            let function = line
                .strip_prefix("async fn ")
                .or_else(|| line.strip_prefix("fn "));
            if let Some(name) = function
                .and_then(|rest| rest.split('(').next())
                .or_else(|| {
                    line.trim_start_matches('(')
                        .strip_prefix('"')?
                        .split('"')
                        .next()
                })
            {
                ids.extend(name.split('_').map(str::to_owned));
            }
        }
    }
    ids
}

/// The ids in the first column of the README's tables.
fn ids_in_readme() -> BTreeSet<String> {
    let text = read(&root().join("crates/brigade/tests/README.md"));
    let first_column = |line: &str| {
        line.strip_prefix("| ")?
            .split(" | ")
            .next()
            .map(str::to_owned)
    };
    text.lines()
        .filter_map(first_column)
        .flat_map(|cell| cell.split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn every_id_of_the_checklist_is_covered_or_explained() {
    let (names, readme) = (ids_in_names(), ids_in_readme());
    let all = IDS.iter().flat_map(|(prefix, numbers)| {
        numbers
            .iter()
            .map(move |number| format!("{prefix}{number}"))
    });
    let missing = all
        .filter(|id| !names.contains(id) && !readme.contains(id))
        .collect();
    none(
        "these are neither in a test's name nor in tests/README.md",
        missing,
    );
}

#[test]
fn ids_in_the_readme_are_of_the_checklist() {
    let known: BTreeSet<String> = IDS
        .iter()
        .flat_map(|(prefix, numbers)| {
            numbers
                .iter()
                .map(move |number| format!("{prefix}{number}"))
        })
        .collect();
    let is_id = |word: &String| {
        word.ends_with(|c: char| c.is_ascii_digit())
            && word.starts_with(|c: char| c.is_ascii_lowercase())
    };
    let unknown = ids_in_readme()
        .into_iter()
        .filter(|word| is_id(word) && !known.contains(word))
        .collect();
    none("these are no ids", unknown);
}
