//! Packages that are published are ready for a registry.

use std::fs;

use crate::none;
use crate::source::{read, root};

/// What each of their manifests says.
const LINES: [&str; 9] = [
    "description = \"",
    "version.workspace = true",
    "edition.workspace = true",
    "rust-version.workspace = true",
    "license.workspace = true",
    "repository.workspace = true",
    "readme = \"README.md\"",
    "include = [",
    "categories",
];

/// What lies with each manifest, and goes into the package.
const FILES: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

#[test]
fn every_package_is_ready_for_a_registry() {
    let mut offenders = Vec::new();
    let mut published = 0;
    for directory in fs::read_dir(root().join("crates")).expect("the crates are there") {
        let directory = directory.expect("an entry").path();
        let manifest = read(&directory.join("Cargo.toml"));
        if manifest.lines().any(|line| line == "publish = false") {
            continue;
        }
        published += 1;
        for wanted in LINES {
            if !manifest.lines().any(|line| line.starts_with(wanted)) {
                offenders.push(format!("{}: no {wanted}", directory.display()));
            }
        }
        for file in FILES {
            if fs::metadata(directory.join(file)).is_ok_and(|found| found.len() > 0) {
                continue;
            }
            offenders.push(format!("{}: no file {file}", directory.display()));
        }
    }
    assert!(published > 2, "the packages are found");
    none("complete these packages", offenders);
}
