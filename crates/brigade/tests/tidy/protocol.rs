//! `docs/wire-protocol.md` names the versions and the frames that the code has.

use crate::none;
use crate::source::{read, root};

/// The files of the protocols, in the order of the document's first table.
const VERSIONS: [&str; 3] = [
    "crates/brigade-pool/src/wire.rs",
    "crates/brigade-pool/src/remote/transport/opening.rs",
    "crates/brigade-pool/src/wire/remote.rs",
];

/// The files that number the kinds of frames.
const KINDS: [&str; 2] = [
    "crates/brigade-pool/src/wire/message.rs",
    "crates/brigade-pool/src/wire/remote.rs",
];

fn document() -> String {
    read(&root().join("docs/wire-protocol.md"))
}

/// Names and values of the constants of a type in a file.
fn constants(file: &str, of_type: &str) -> Vec<(String, String)> {
    let middle = format!(": {of_type} = ");
    read(&root().join(file))
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(&middle)?;
            let (_, name) = name.split_once("const ")?;
            Some((name.to_owned(), value.trim_end_matches(';').to_owned()))
        })
        .collect()
}

#[test]
fn the_document_has_the_versions_of_the_wire_protocols() {
    let document = document();
    let documented: Vec<&str> = document
        .lines()
        .filter(|line| line.contains("`brigade-pool`: `"))
        .filter_map(|line| line.split(" | ").nth(2))
        .collect();
    let defined: Vec<String> = VERSIONS
        .iter()
        .flat_map(|file| constants(file, "u16"))
        .filter(|(name, _)| name == "VERSION")
        .map(|(_, version)| version)
        .collect();
    assert_eq!(documented, defined, "of {VERSIONS:?}");
}

#[test]
fn the_document_has_every_kind_of_frame() {
    let document = document();
    let missing: Vec<String> = KINDS
        .iter()
        .flat_map(|file| constants(file, "u8"))
        .map(|(name, number)| format!("| {number} {name} |"))
        .filter(|cell| !document.contains(cell.as_str()))
        .collect();
    none("frames that docs/wire-protocol.md lacks", missing);
}
