//! Each type name is defined once across the libraries, so that a reader who meets it knows which
//! it is. Two files of which cargo features choose one, `no_x.rs` and `x.rs`, count as one.

use std::collections::BTreeMap;

use crate::none;
use crate::source::{halves, libraries, name, read, sources, without_tests};

/// Names that are defined more than once today. No name is added.
const TWICE: &[&str] = &["Handler", "Rules"];

/// Names of types that are defined at the top level of this code.
fn types(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let line = line.strip_prefix("pub").map_or(line, |rest| {
            let rest = rest
                .strip_prefix('(')
                .and_then(|rest| Some(rest.split_once(')')?.1))
                .unwrap_or(rest);
            rest.trim_start()
        });
        let (kind, rest) = line.split_once(' ')?;
        let unsafe_trait = rest.strip_prefix("trait ").filter(|_| kind == "unsafe");
        let is_type = matches!(kind, "struct" | "enum" | "union" | "trait" | "type");
        let rest = unsafe_trait.unwrap_or(rest);
        (is_type || unsafe_trait.is_some())
            .then(|| {
                rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
            })
            .flatten()
    })
}

#[test]
fn every_type_name_is_defined_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources() {
        let inside = name(&path);
        let is_library = libraries()
            .iter()
            .any(|library| inside.starts_with(&format!("crates/{library}/")));
        if !is_library || inside.ends_with("/tests.rs") || inside.contains("/no_") {
            continue;
        }
        let code = without_tests(&halves(&read(&path)).code);
        for found in types(&code) {
            places
                .entry(found.to_owned())
                .or_default()
                .push(inside.clone());
        }
    }
    places.retain(|_, places| places.len() > 1);
    let new = places
        .iter()
        .filter(|(name, _)| !TWICE.contains(&name.as_str()))
        .map(|(name, places)| format!("{name}: {}", places.join(", ")));
    none("give all but one of these another name", new.collect());
    let once = TWICE
        .iter()
        .filter(|name| !places.contains_key(**name))
        .map(|name| format!("    {name:?},"));
    none(
        "these are defined once: remove them from TWICE",
        once.collect(),
    );
}
