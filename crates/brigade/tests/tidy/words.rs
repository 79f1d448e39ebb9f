//! Plain English: words that hide who does what have a budget in each directory, which only
//! shrinks. Comments and strings of Rust, and all of Markdown, Lua and shell scripts count.

use std::collections::BTreeMap;

use crate::source::{files, halves, name, read, root};

const WORDS: [&str; 8] = [
    "whoever", "nobody", "somebody", "told", "tells", "anew", "beside", "such",
];

/// How often these words stand in the files of a directory. One that is not here has none.
const BUDGET: &[(&str, usize)] = &[
    (".", 1),
    ("crates/brigade-conformance/src/cases", 16),
    ("crates/brigade-core/src", 5),
    ("crates/brigade-core/src/attempt_report", 1),
    ("crates/brigade-core/src/codec", 1),
    ("crates/brigade-pool/src/pool", 1),
    ("crates/brigade-rabbitmq/src", 4),
    ("crates/brigade-rabbitmq/tests/rabbitmq", 1),
    ("crates/brigade-redis/src", 2),
    ("crates/brigade/src/consume", 3),
    ("crates/brigade/tests/consume", 1),
    ("crates/brigade/tests/pool", 4),
];

#[test]
fn words_that_hide_the_actor_become_fewer() {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for ending in [".rs", ".lua", ".md"] {
        for path in files(&root(), ending) {
            let inside = name(&path);
            // What these words are is said there.
            if inside.contains("/tests/tidy/") || inside == "docs/glossary.md" {
                continue;
            }
            let text = read(&path);
            let prose = if ending == ".rs" {
                halves(&text).prose
            } else {
                text
            };
            let count = prose
                .split(|c: char| !c.is_alphabetic())
                .filter(|word| WORDS.contains(&word.to_lowercase().as_str()))
                .count();
            let directory = inside
                .rsplit_once('/')
                .map_or(".", |(directory, _)| directory);
            if count > 0 {
                *found.entry(directory.to_owned()).or_default() += count;
            }
        }
    }
    let budget: BTreeMap<String, usize> = BUDGET
        .iter()
        .map(|(directory, count)| ((*directory).to_owned(), *count))
        .collect();
    let of = |table: &BTreeMap<String, usize>, directory: &str| {
        table.get(directory).copied().unwrap_or(0)
    };
    let changed: Vec<String> = found
        .keys()
        .chain(
            budget
                .keys()
                .filter(|directory| !found.contains_key(*directory)),
        )
        .filter(|directory| of(&found, directory) != of(&budget, directory))
        .map(|directory| {
            format!(
                "{directory}: {}, the budget is {}",
                of(&found, directory),
                of(&budget, directory)
            )
        })
        .collect();
    let table: String = found
        .iter()
        .map(|(directory, count)| format!("    ({directory:?}, {count}),\n"))
        .collect();
    assert!(
        changed.is_empty(),
        "name the actor instead of {WORDS:?}; where the count went down, lower the budget:\n{}\n\n\
            The table as it would be now:\n{table}",
        changed.join("\n")
    );
}
