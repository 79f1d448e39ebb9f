//! What a machine can check of the source, so that no reader has to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the workspace begins.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace is there")
}

/// Files below this directory whose name ends so, without what a build made.
fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
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

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rust files below `src` of every crate.
fn sources() -> Vec<PathBuf> {
    let is_source = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "src");
    let sources: Vec<PathBuf> = files(&root().join("crates"), ".rs")
        .into_iter()
        .filter(is_source)
        .collect();
    assert!(sources.len() > 40, "the sources are found");
    sources
}

fn none(what: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{what}:\n{}", offenders.join("\n"));
}

const LINES_MAX: usize = 760;

#[test]
fn no_source_file_is_too_long() {
    let too_long = |path: PathBuf| {
        let lines = read(&path).lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
    };
    none(
        "split these by concept",
        sources().into_iter().filter_map(too_long).collect(),
    );
}

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

// -- which module may know which

const VALUES: [&str; 16] = [
    "attempt_report",
    "codec",
    "error",
    "event",
    "finding",
    "job",
    "job_context",
    "limits",
    "outcome",
    "payload",
    "printable",
    "progress",
    "refused",
    "retry",
    "schedule",
    "why",
];
/// Clocks, a lock and the one place that spawns: none knows anything.
const GROUND: [&str; 3] = ["clock", "shutdown", "sync"];
const LINK: [&str; 2] = ["wire", "link"];
/// What a user writes: it says what runs, and never where.
const USERS: [&str; 5] = ["address", "call", "context", "registry", "task"];

/// What a module may use besides itself.
fn may_use(module: &str) -> Vec<&'static str> {
    match module {
        "clock" | "shutdown" | "sync" => vec![],
        "stop" => vec!["shutdown"],
        values if VALUES.contains(&values) => [&VALUES[..], &["clock"]].concat(),
        "wire" => VALUES.to_vec(),
        "link" => [&VALUES[..], &GROUND, &["wire"]].concat(),
        "process" => [&VALUES[..], &GROUND, &LINK].concat(),
        user if USERS.contains(&user) => [&VALUES[..], &GROUND, &USERS, &["wire"]].concat(),
        // A broker knows how jobs are joined, not what they were made of.
        "flow" => [&VALUES[..], &USERS, &["broker"]].concat(),
        // A pool takes in hosts that join; a worker is a child of its pool and knows of none.
        "pool" => [
            &VALUES[..],
            &GROUND,
            &LINK,
            &USERS,
            &["entry", "process", "remote"],
        ]
        .concat(),
        "entry" => vec!["worker"],
        "worker" => [&VALUES[..], &GROUND, &LINK, &USERS, &["process"]].concat(),
        // A host is a pool that runs what others send.
        "host" => [
            &VALUES[..],
            &GROUND,
            &LINK,
            &USERS,
            &["pool", "process", "remote"],
        ]
        .concat(),
        // A broker never knows a pool, nor a pool a broker; only the consumer knows both.
        // Of processes it knows whether the holder of a lease is gone.
        "broker" => [&VALUES[..], &GROUND, &USERS, &["link", "process"]].concat(),
        // All that decodes bytes from outside, and its test.
        "fuzzing" => [&VALUES[..], &LINK, &["pool", "remote"]].concat(),
        "fuzz" => [&VALUES[..], &LINK, &["context", "fuzzing", "remote"]].concat(),
        // The door to other hosts is a byte stream; what is said through it is of the link. `host`
        // is named there once, for the page of the API that both are on.
        "remote" => [&VALUES[..], &GROUND, &LINK, &["host"]].concat(),
        "consume" => [&VALUES[..], &GROUND, &USERS, &["broker", "pool", "stop"]].concat(),
        "testing" => [&VALUES[..], &USERS, &["broker", "consume"]].concat(),
        unknown => panic!("say in tidy.rs what the module {unknown} may use"),
    }
}

#[test]
fn dependencies_point_one_way() {
    let library = root().join("crates/brigade/src");
    let front = read(&library.join("lib.rs"));
    let modules: BTreeSet<&str> = front
        .lines()
        .filter_map(|line| {
            line.trim_start_matches("pub ")
                .strip_prefix("mod ")?
                .strip_suffix(';')
        })
        .collect();
    assert!(modules.len() > 10, "{modules:?}");
    let mut offenders = Vec::new();
    for path in files(&library, ".rs") {
        let inside = path.strip_prefix(&library).expect("below the library");
        let first = inside
            .components()
            .next()
            .expect("a name")
            .as_os_str()
            .to_str()
            .expect("text");
        let module = first.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let allowed = may_use(module);
        for (number, line) in (1..)
            .zip(read(&path).lines())
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            for rest in line.split("crate::").skip(1) {
                let used = rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or_default();
                if modules.contains(used) && used != module && !allowed.contains(&used) {
                    offenders.push(format!(
                        "{}:{number}: {module} must not know {used}",
                        inside.display()
                    ));
                }
            }
        }
    }
    none("dependencies that point the wrong way", offenders);
}

// -- the checklist

/// The ids of the checklist: a prefix and the numbers that there are.
const IDS: [(&str, &[usize]); 8] = [
    ("wp", &count::<53>()),
    ("wx", &count::<9>()),
    ("pm", &count::<7>()),
    ("pi", &count::<44>()),
    ("tp", &count::<14>()),
    ("issue", &[304, 344, 805, 869, 934]),
    ("l", &count::<13>()),
    ("lb", &count::<17>()),
];

const fn count<const N: usize>() -> [usize; N] {
    let (mut numbers, mut index) = ([0; N], 0);
    while index < N {
        numbers[index] = index + 1;
        index += 1;
    }
    numbers
}

/// The ids in the names of tests: those of functions, and those of `program.rs`, which is its own
/// harness.
fn ids_in_names() -> BTreeSet<String> {
    let tests = root().join("crates/brigade");
    let mut ids = BTreeSet::new();
    for path in files(&tests.join("tests"), ".rs")
        .into_iter()
        .chain(files(&tests.join("src"), ".rs"))
    {
        for line in read(&path).lines().map(str::trim_start) {
            let function = line
                .strip_prefix("async fn ")
                .or_else(|| line.strip_prefix("fn "));
            if let Some(name) = function
                .and_then(|rest| rest.split('(').next())
                .or_else(|| line.strip_prefix("(\"")?.split('"').next())
            {
                ids.extend(name.split('_').map(str::to_owned));
            }
        }
    }
    ids
}

/// The ids in the first column of the README's tables.
fn ids_in_readme() -> BTreeSet<String> {
    let text = read(&root().join("crates/brigade/tests/README.md"));
    let first_column = |line: &str| {
        line.strip_prefix("| ")?
            .split(" | ")
            .next()
            .map(str::to_owned)
    };
    text.lines()
        .filter_map(first_column)
        .flat_map(|cell| cell.split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn every_id_of_the_checklist_is_covered_or_explained() {
    let (names, readme) = (ids_in_names(), ids_in_readme());
    let all = IDS.iter().flat_map(|(prefix, numbers)| {
        numbers
            .iter()
            .map(move |number| format!("{prefix}{number}"))
    });
    let missing = all
        .filter(|id| !names.contains(id) && !readme.contains(id))
        .collect();
    none(
        "these are neither in a test's name nor in tests/README.md",
        missing,
    );
}

#[test]
fn ids_in_the_readme_are_of_the_checklist() {
    let known: BTreeSet<String> = IDS
        .iter()
        .flat_map(|(prefix, numbers)| {
            numbers
                .iter()
                .map(move |number| format!("{prefix}{number}"))
        })
        .collect();
    let is_id = |word: &String| {
        word.ends_with(|c: char| c.is_ascii_digit())
            && word.starts_with(|c: char| c.is_ascii_lowercase())
    };
    let unknown = ids_in_readme()
        .into_iter()
        .filter(|word| is_id(word) && !known.contains(word))
        .collect();
    none("these are no ids", unknown);
}
