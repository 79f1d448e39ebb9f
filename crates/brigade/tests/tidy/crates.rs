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
            "brigade-postgres",
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
    ("brigade-postgres", &["brigade-core", "brigade-runtime"]),
    ("brigade-rabbitmq", &["brigade-core", "brigade-runtime"]),
    ("brigade-redis", &["brigade-core", "brigade-runtime"]),
    ("brigade-runtime", &["brigade-core"]),
    ("brigade-server", &["brigade"]),
    ("brigade-sqlite", &["brigade-core", "brigade-runtime"]),
    ("brigade-testkit", &[]),
    ("brigade-tracing-tests", &["brigade"]),
];

/// What the examples of `brigade` are built with besides the library: a newcomer waits for all of
/// it before the demonstration runs. What only one test needs belongs into another crate's tests.
const DEVELOPMENT: &[&str] = &[
    "brigade-testkit",
    "libc",
    "md-5",
    "postcard",
    "rustix",
    "sha2",
    "tempfile",
    "tower-service",
];

/// Names of the crates in those sections of a manifest.
fn dependencies(manifest: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            continue;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if is_wanted(section) && !name.is_empty() && !name.starts_with('#') {
            found.push(name.to_owned());
        }
    }
    found
}

/// Whether programs are built with what stands in a section.
fn is_linked(section: &str) -> bool {
    section == "dependencies" || section.ends_with(".dependencies")
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
        let used = dependencies(&read(&manifest), is_linked);
        for used in used.iter().filter(|used| used.starts_with("brigade")) {
            if !allowed.contains(&used.as_str()) {
                offenders.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    none("dependencies that point the wrong way", offenders);
}

#[test]
fn the_demonstration_is_built_with_few_crates() {
    let manifest = read(&root().join("crates/brigade/Cargo.toml"));
    let mut used = dependencies(&manifest, |section| section == "dev-dependencies");
    used.sort();
    assert_eq!(used, DEVELOPMENT, "development dependencies of brigade");
}
