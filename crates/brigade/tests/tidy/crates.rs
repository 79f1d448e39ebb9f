//! Crates of the workspace depend downwards: values know nothing, stores and pool know the values
//! and never each other, `brigade` knows both, the command knows only `brigade`.

use std::fs;

use crate::none;
use crate::source::{read, root};

/// What each crate may depend on, development dependencies aside.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "brigade",
        &[
            "brigade-core",
            "brigade-macros",
            "brigade-pool",
            "brigade-rabbitmq",
            "brigade-redis",
            "brigade-runtime",
            "brigade-sqlite",
        ],
    ),
    ("brigade-bench", &[]),
    ("brigade-cli", &["brigade", "brigade-server"]),
    ("brigade-conformance", &["brigade"]),
    ("brigade-core", &[]),
    ("brigade-macros", &[]),
    ("brigade-pool", &["brigade-core", "brigade-runtime"]),
    ("brigade-rabbitmq", &["brigade-core", "brigade-runtime"]),
    ("brigade-redis", &["brigade-core", "brigade-runtime"]),
    ("brigade-runtime", &["brigade-core"]),
    ("brigade-server", &["brigade"]),
    ("brigade-sqlite", &["brigade-core", "brigade-runtime"]),
    ("brigade-testkit", &[]),
];

/// Names of the workspace's crates in the sections of a manifest that programs are built with.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        let is_linked = section == "dependencies" || section.ends_with(".dependencies");
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if is_linked && name.starts_with("brigade") {
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn crates_depend_downwards() {
    let mut offenders = Vec::new();
    let crates = fs::read_dir(root().join("crates")).expect("the crates are there");
    for entry in crates.map(|entry| entry.expect("an entry")) {
        let name = entry
            .file_name()
            .into_string()
            .expect("a name that is text");
        let manifest = entry.path().join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            offenders.push(format!("say in MAY_USE what {name} may depend on"));
            continue;
        };
        for used in dependencies(&read(&manifest)) {
            if !allowed.contains(&used.as_str()) {
                offenders.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    none("dependencies that point the wrong way", offenders);
}
