//! Every example runs, ends well and shows what it promises.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "starts the examples and waits for them with a bound"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An example of unit tests: they run here, too, as plain `cargo test` only builds examples.
#[path = "../examples/unit_tests.rs"]
mod example_of_unit_tests;

/// Examples take about a second; this is for machines under heavy load.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

macro_rules! examples {
    ($($name:ident: $lines:expr,)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            run(stringify!($name), &$lines);
        })*
    };
}

examples! {
    offload: ["primes below 30: [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]", "6 * 7 = 42", "ran in another process: true", "timed out"],
    tasks: ["by function: 7", "by constant: HELLO!", "as JSON: 7", "failed: nothing to shout", "wrong types refused: true"],
    progress: [" 33 % frame (10 items)", "100 % paint (30 items)", "built 30 items"],
    cancel: ["polite: stopped when asked", "stubborn: stopped by SIGTERM", "reason: the user left", "timed out: stubborn", "spinning"],
    map: ["ordered: [0, 1, 4, 9, 16, 25, 36, 49]", "the same values: true", "at most 8 inputs \
        taken: true"],
    worker_state: ["bucket: Some(\"Eimer\")", "brigade: None", "closed after 3 words", "not started: "],
    shutdown: ["no more work", "drained: true", "refused afterwards: true", "11 chores done, 2 \
        workers gone"],
    crash: ["attempt to divide by zero (at ", "the task crashed: abort", "SIGABRT", "exit code 3", "stack overflow", "out of memory", "6 / 3 = 2", "attempts that crashed: 4"],
    flows: ["a chain: BRIGADE", "a group, collected: 385", "a group by itself: [1, 4, 9]", "broken: dead, not run: job", "cannot read", "after one retry: done, 625", "21 jobs done"],
    calls: ["worker 1 has loaded", "worker 2 has loaded", "hello, Ada", "hello, Grace"],
    unit_tests: ["here: 2 words", "in workers: 3 words"],
}

/// Its hosts need a feature.
#[cfg(feature = "remote")]
#[test]
fn fleet() {
    run(
        "fleet",
        &[
            "hosts: 2",
            "one: ",
            "two: ",
            "digests, all right; failed: 0",
        ],
    );
}

/// `demo.rs` runs the demonstration.
#[test]
fn every_example_is_run() {
    let sources = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let found: BTreeSet<String> = sources
        .map(|source| {
            source
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        found,
        NAMES
            .iter()
            .chain(&["fleet", "demo"])
            .map(|name| (*name).to_owned())
            .collect()
    );
}

fn run(name: &str, lines: &[&str]) {
    // target/<profile>/deps/examples-<hash>
    let this = std::env::current_exe().unwrap();
    let example = this
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        example.exists(),
        "build the examples first (cargo build --examples): no {}",
        example.display()
    );
    let mut child = Command::new(example)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + ENDS_WITHIN;
    // What an example prints fits into a pipe.
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{name} does not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}: {output:?}");
    for line in lines {
        assert!(
            text.contains(line),
            "{name} does not print {line:?}:\n{text}"
        );
    }
}
