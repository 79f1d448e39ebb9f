//! Length of files and of their headers. Clippy measures functions (`clippy.toml`).

use crate::source::{libraries, name, read, sources};
use crate::within;

/// Longest file of code.
const LINES_MAX: usize = 500;
/// Files that are longer today.
const TOO_LONG: usize = 0;
/// A file that is longer needs a header.
const LINES_WITHOUT_HEADER: usize = 150;
/// Files of the libraries that have no such header yet.
const HEADERLESS: usize = 0;

#[test]
fn no_source_file_is_too_long() {
    let mut too_long = Vec::new();
    for path in sources() {
        let lines = read(&path).lines().count();
        if lines > LINES_MAX {
            too_long.push(format!("{}: {lines} lines", name(&path)));
        }
    }
    within("split these by concept", TOO_LONG, &too_long);
}

#[test]
fn long_files_begin_with_a_header() {
    let libraries = libraries();
    let mut offenders = Vec::new();
    for path in sources() {
        let (inside, text) = (name(&path), read(&path));
        let is_library = libraries
            .iter()
            .any(|library| inside.starts_with(&format!("crates/{library}/")));
        let header = text
            .lines()
            .skip_while(|line| line.starts_with("#!["))
            .take_while(|line| line.starts_with("//!"))
            .count();
        if is_library
            && text.lines().count() > LINES_WITHOUT_HEADER
            && !(5..=30).contains(&header)
            && !inside.ends_with("/lib.rs")
            && !inside.ends_with("/tests.rs")
        {
            offenders.push(format!("{inside}: {header} lines"));
        }
    }
    within(
        "these need a header of 5 to 30 lines: what it is, who owns the state, invariants",
        HEADERLESS,
        &offenders,
    );
}
