//! Which module may use which: values know nothing, and only consumers know both the pool and a
//! broker.
//!
//! What a crate may use of the others is in `crates.rs`. A module that a crate imports at its root
//! from a crate below it counts as one of its own here: `crate::error` is `brigade_core::error`.
//! The crates of the stores have one concept each and no table here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::none;
use crate::source::{files, read, root};

/// The crates of the library whose modules are layers of their own. The store crates have one
/// concept each.
const LIBRARIES: [&str; 4] = ["brigade-core", "brigade-runtime", "brigade-pool", "brigade"];

const VALUES: [&str; 29] = [
    "attempt_limits",
    "attempt_report",
    "codec",
    "error",
    "event",
    "finding",
    "flow",
    "job",
    "job_context",
    "job_event",
    "limits",
    "options",
    "outcome",
    "output",
    "payload",
    "policy",
    "printable",
    "progress",
    "progress_queue",
    "refused",
    "retry",
    "sandbox",
    "schedule",
    "span",
    "statistics",
    "tick",
    "to_job",
    "traceparent",
    "why",
];
/// Clocks, a lock and the one place that spawns: none knows anything.
const GROUND: [&str; 3] = ["clock", "shutdown", "sync"];
const LINK: [&str; 2] = ["wire", "link"];
/// What a user writes: it says what runs, and never where.
const USERS: [&str; 12] = [
    "address",
    "args",
    "call",
    "call_handle",
    "context",
    "function",
    "invocation",
    "place",
    "registry",
    "request",
    "signature",
    "task",
];

/// What a module may use besides itself.
fn may_use(module: &str) -> Vec<&'static str> {
    match module {
        "clock" | "shutdown" | "sync" => vec![],
        "stop" => vec!["shutdown"],
        values if VALUES.contains(&values) => [&VALUES[..], &USERS, &["clock"]].concat(),
        "wire" => VALUES.to_vec(),
        "mark" | "owner" | "ready" => vec!["mark"],
        "no_tls" | "tls" => vec![],
        "batcher" | "spare_threads" => vec!["shutdown"],
        "link" => [&VALUES[..], &GROUND, &["wire"]].concat(),
        "process" => [&VALUES[..], &GROUND, &LINK].concat(),
        user if USERS.contains(&user) => [&VALUES[..], &GROUND, &USERS, &["wire"]].concat(),
        // A pool takes in hosts that join; a worker is a child of its pool and knows of none.
        "pool" => [
            &VALUES[..],
            &GROUND,
            &LINK,
            &USERS,
            &["confinement", "entry", "process", "remote"],
        ]
        .concat(),
        // A sandbox, and how it is applied.
        "confinement" | "no_confinement" => VALUES.to_vec(),
        "entry" => vec!["worker"],
        "worker" => [
            &VALUES[..],
            &GROUND,
            &LINK,
            &USERS,
            &["confinement", "process"],
        ]
        .concat(),
        // A host is a pool that runs what others send.
        "host" => [
            &VALUES[..],
            &GROUND,
            &LINK,
            &USERS,
            &["pool", "process", "remote"],
        ]
        .concat(),
        // The contract of a store: values and traits, no IO.
        "store" => [&VALUES[..], &["clock", "sync"]].concat(),
        // A broker never knows a pool, nor a pool a broker; only the consumer knows both.
        "broker" => [&VALUES[..], &GROUND, &USERS, &["store"]].concat(),
        // All that decodes bytes from outside, and its test.
        "fuzzing" => [&VALUES[..], &LINK, &["pool", "remote"]].concat(),
        "fuzz" => [&VALUES[..], &LINK, &["context", "fuzzing", "remote"]].concat(),
        // Connections to other hosts carry the messages of the link. `host`
        // is named there once, for the page of the API that both are on.
        "remote" => [&VALUES[..], &GROUND, &LINK, &["host"]].concat(),
        "pushed_flow" => [&VALUES[..], &["broker", "store"]].concat(),
        "consume" => [
            &VALUES[..],
            &GROUND,
            &USERS,
            &["broker", "pool", "stop", "store"],
        ]
        .concat(),
        "testing" => [&VALUES[..], &USERS, &["broker", "consume"]].concat(),
        unknown => panic!("say in layers.rs what the module {unknown} may use"),
    }
}

#[test]
fn dependencies_point_one_way() {
    let libraries = LIBRARIES.map(|name| root().join("crates").join(name).join("src"));
    let front: String = libraries
        .iter()
        .map(|library| read(&library.join("lib.rs")))
        .collect();
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
    for (library, path) in libraries.iter().flat_map(|library| {
        files(library, ".rs")
            .into_iter()
            .map(move |path| (library, path))
    }) {
        let inside = path.strip_prefix(library).expect("below the library");
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

#[test]
fn only_consumers_know_both_the_pool_and_a_broker() {
    let source = root().join("crates/brigade/src");
    let knows = |path: &PathBuf| {
        let inside = path.strip_prefix(&source).expect("below the library");
        let is_allowed = inside.starts_with("consume")
            || ["consume.rs", "lib.rs"]
                .iter()
                .any(|file| inside == Path::new(file));
        !is_allowed && read(path).contains("brigade_pool")
    };
    let offenders = files(&source, ".rs").into_iter().filter(knows);
    let offenders = offenders.map(|path| path.display().to_string()).collect();
    none("only `consume` may know brigade_pool", offenders);
}
