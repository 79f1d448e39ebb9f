//! Files of the workspace, with code and prose taken apart.
//!
//! The scanner knows comments, strings, raw strings and characters of Rust; that is enough for
//! rules about names, imports and words. Both halves keep every line break, so that line numbers
//! stay those of the file.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the workspace begins.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace is there")
}

/// Files below this directory whose name ends so, without what a build made.
pub(crate) fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(below).unwrap_or_else(|e| panic!("{}: {e}", below.display()));
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name that is text");
        if path.is_dir() && !matches!(name, "target" | ".git" | "node_modules") {
            found.extend(files(&path, ending));
        } else if path.is_file() && name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The path within the workspace, as text.
pub(crate) fn name(path: &Path) -> String {
    let inside = path.strip_prefix(root()).unwrap_or(path);
    inside.to_str().expect("a path that is text").to_owned()
}

/// Rust files below `src` of every crate.
pub(crate) fn sources() -> Vec<PathBuf> {
    let is_source = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "src");
    let sources: Vec<PathBuf> = files(&root().join("crates"), ".rs")
        .into_iter()
        .filter(is_source)
        .collect();
    assert!(sources.len() > 40, "the sources are found");
    sources
}

/// Names of all crates.
pub(crate) fn packages() -> Vec<String> {
    let crates = fs::read_dir(root().join("crates")).expect("the crates are there");
    let mut names: Vec<String> = crates
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Names of the crates that programs link: all but the command, the macros, and the test kit.
pub(crate) fn libraries() -> Vec<String> {
    packages()
        .into_iter()
        .filter(|name| !["brigade-cli", "brigade-macros", "brigade-testkit"].contains(&&**name))
        .collect()
}

/// A Rust file in two halves of the same length in lines.
pub(crate) struct Halves {
    /// Without comments, and with empty strings.
    pub(crate) code: String,
    /// Comments and strings alone.
    pub(crate) prose: String,
}

/// Where the scanner stands.
enum Within {
    Code,
    Line,
    /// So many block comments deep.
    Block(usize),
    /// A string that ends with a quote and so many hashes; `None` for one with escapes.
    Text(Option<usize>),
}

/// Takes a Rust file apart.
pub(crate) fn halves(text: &str) -> Halves {
    let (mut code, mut prose) = (String::new(), String::new());
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut within) = (0, Within::Code);
    while at < text.len() {
        let is_code = matches!(within, Within::Code);
        let (length, next) = step(&text, at, &within);
        let literal = is_code && length > 1 && text[at] == '\'';
        if literal {
            code.push_str("' '");
        } else if is_code && matches!(next, Within::Text(_)) {
            code.push_str("\"\"");
        }
        let stays = is_code && matches!(next, Within::Code) && !literal;
        for c in &text[at..(at + length).min(text.len())] {
            if *c == '\n' || stays {
                code.push(*c);
            }
            if *c == '\n' || !stays {
                prose.push(*c);
            }
        }
        (at, within) = (at + length, next);
    }
    Halves { code, prose }
}

/// How many characters belong together here, and where the scanner stands after them.
fn step(text: &[char], at: usize, within: &Within) -> (usize, Within) {
    let starts = |at: usize, what: &str| {
        let found = |(offset, c)| text.get(at + offset) == Some(&c);
        what.chars().enumerate().all(found)
    };
    match *within {
        Within::Code if starts(at, "//") => (2, Within::Line),
        Within::Code if starts(at, "/*") => (2, Within::Block(1)),
        Within::Code if text[at] == '"' => (1, Within::Text(None)),
        Within::Code => match raw_string(text, at) {
            Some(hashes) => (2 + hashes, Within::Text(Some(hashes))),
            None => (character(text, at).unwrap_or(1), Within::Code),
        },
        Within::Line if text[at] == '\n' => (1, Within::Code),
        Within::Line => (1, Within::Line),
        Within::Block(1) if starts(at, "*/") => (2, Within::Code),
        Within::Block(depth) if starts(at, "*/") => (2, Within::Block(depth - 1)),
        Within::Block(depth) if starts(at, "/*") => (2, Within::Block(depth + 1)),
        Within::Block(depth) => (1, Within::Block(depth)),
        Within::Text(None) if text[at] == '\\' => (2, Within::Text(None)),
        Within::Text(None) if text[at] == '"' => (1, Within::Code),
        Within::Text(Some(hashes)) if text[at] == '"' && starts(at + 1, &"#".repeat(hashes)) => {
            (1 + hashes, Within::Code)
        }
        Within::Text(hashes) => (1, Within::Text(hashes)),
    }
}

/// The hashes of a raw string that begins here.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map(|before| text[before]);
    if text[at] != 'r' || before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_') {
        return None;
    }
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    (text.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// The length of a character literal that begins here; `None` for a lifetime.
fn character(text: &[char], at: usize) -> Option<usize> {
    if text[at] != '\'' {
        return None;
    }
    if text.get(at + 1) == Some(&'\\') {
        let length = text[at + 2..].iter().skip(1).position(|c| *c == '\'')?;
        return Some(length + 4);
    }
    (text.get(at + 2) == Some(&'\'')).then_some(3)
}

/// Code without its unit tests: blocks that `#[cfg(test)]` is put on.
pub(crate) fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(found) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..found]);
        let after = &rest[found..];
        let end = after.find(['{', ';']).map_or(after.len(), |first| {
            if after.as_bytes()[first] == b';' {
                return first + 1;
            }
            let mut depth = 0;
            after[first..]
                .char_indices()
                .find_map(|(at, c)| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    (depth == 0).then_some(first + at + 1)
                })
                .unwrap_or(after.len())
        });
        kept.extend(after[..end].chars().filter(|c| *c == '\n'));
        rest = &after[end..];
    }
    kept + rest
}

#[test]
fn code_and_prose_are_taken_apart() {
    let text = "let a = \"told\"; // nobody\nlet b = r#\"x \" y\"#; let c = '\"'; let d: &'a str;\n/* tells */ fn e() {}\n";
    let halves = halves(text);
    assert_eq!(
        halves.code,
        "let a = \"\"; \nlet b = \"\"; let c = ' '; let d: &'a str;\n fn e() {}\n"
    );
    for word in ["told", "nobody", "tells", "x \" y"] {
        assert!(halves.prose.contains(word), "{word}: {}", halves.prose);
    }
    assert_eq!(
        without_tests("a\n#[cfg(test)]\nmod tests { fn x() {} }\nb"),
        "a\n\n\nb"
    );
}
