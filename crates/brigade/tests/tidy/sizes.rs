//! Length of files, of their headers and of the lines of comments. Clippy measures functions
//! (`clippy.toml`), and rustfmt the lines of code.

use crate::source::{libraries, name, read, sources};
use crate::within;

/// Longest file of code.
const LINES_MAX: usize = 500;
/// Files that are longer today.
const TOO_LONG: usize = 0;
/// A file that is longer needs a header.
const LINES_WITHOUT_HEADER: usize = 150;
/// Files of the libraries that have no such header yet.
const HEADERLESS: usize = 1;

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

/// Columns of a line of prose in a comment.
const COLUMNS_MAX: usize = 100;

/// Tables, drawings and code are as wide as they are.
fn is_prose(line: &str) -> bool {
    let text = line.trim_start_matches('/').trim_start_matches('!');
    let text = text.strip_prefix(' ').unwrap_or(text);
    text.contains(' ') && !text.starts_with([' ', '|', '[', '#'])
}

#[test]
fn prose_in_comments_is_wrapped_as_code_is() {
    let mut too_wide = Vec::new();
    for path in sources() {
        let mut is_code = false;
        for (number, line) in read(&path).lines().enumerate() {
            let comment = line.trim_start();
            is_code ^= comment.starts_with("/") && comment.contains("```");
            if comment.starts_with("//")
                && !is_code
                && line.chars().count() > COLUMNS_MAX
                && is_prose(comment)
            {
                too_wide.push(format!("{}:{}", name(&path), number + 1));
            }
        }
    }
    within("wrap these at 100 columns", 0, &too_wide);
}
