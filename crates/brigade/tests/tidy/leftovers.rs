//! What is left over: names that say nothing, notes to oneself, places of one machine.

use std::path::PathBuf;

use crate::none;
use crate::source::{files, read, root};

#[test]
fn files_are_named_by_their_concept() {
    let refused = [
        "mod", "util", "utils", "common", "helper", "helpers", "imp", "misc",
    ];
    let is_refused = |path: &PathBuf| {
        path.file_stem()
            .is_some_and(|stem| refused.iter().any(|refused| stem == *refused))
    };
    let all = files(&root().join("crates"), ".rs")
        .into_iter()
        .filter(is_refused);
    none(
        "name these by what they hold",
        all.map(|path| path.display().to_string()).collect(),
    );
}

#[test]
fn nothing_is_left_to_do() {
    // In two parts, so that this file is none of them.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("HA", "CK"),
    ];
    let mut offenders = Vec::new();
    for path in files(&root().join("crates"), ".rs") {
        for (number, line) in (1..).zip(read(&path).lines()) {
            let words = line.split(|c: char| !c.is_alphanumeric());
            if words.into_iter().any(|word| marks.contains(&word)) {
                offenders.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    none("do it or leave it", offenders);
}

#[test]
fn nothing_names_a_place_on_one_machine() {
    let roots = ["home", "work", "root", "Users", "opt/build", "mnt"];
    let mut offenders = Vec::new();
    for ending in [".rs", ".toml", ".md", ".stderr", ".yml", ".yaml", ".lock"] {
        for path in files(&root(), ending) {
            for (number, line) in (1..).zip(read(&path).lines()) {
                let is_place = |name: &&str| {
                    let place = format!("/{name}/");
                    line.match_indices(&place).any(|(at, _)| {
                        // A path begins there; it is not a part of a longer one, such as a web
                        // address.
                        let before = line[..at].chars().next_back();
                        let after = line[at + place.len()..].chars().next();
                        !before.is_some_and(|c| {
                            c.is_alphanumeric()
                                || matches!(c, '.' | '-' | '_' | '$' | '}' | ')' | '~')
                        }) && after.is_some_and(char::is_alphanumeric)
                    })
                };
                if roots.iter().any(is_place) {
                    offenders.push(format!("{}:{number}: {line}", path.display()));
                }
            }
        }
    }
    none("these are places of one machine", offenders);
}
