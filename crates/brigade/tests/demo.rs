//! The demonstration as a newcomer runs it: the example's program, on a real tree, with real
//! crashes.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "starts the binary under test and waits for facts of the operating system"
)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;

/// A run of the binary whose processes can be found among all others: TMPDIR is handed on to
/// workers.
struct Run {
    mark: TempDir,
    command: Command,
}

impl Run {
    fn new(arguments: &[&str]) -> Self {
        let mark = tempfile::tempdir().unwrap();
        // target/<profile>/deps/demo-<hash>
        let this = std::env::current_exe().unwrap();
        let demo = this.ancestors().nth(2).unwrap().join("examples/demo");
        assert!(
            demo.exists(),
            "build the examples first (cargo build --examples): no {}",
            demo.display()
        );
        let mut command = Command::new(demo);
        command
            .args(arguments)
            .env("TMPDIR", mark.path())
            .env_remove("RUST_BACKTRACE");
        Self { mark, command }
    }

    fn on(directory: &Path, arguments: &[&str]) -> Self {
        let mut run = Self::new(&["--workers", "2"]);
        run.command.args(arguments).arg(directory);
        run
    }

    fn output(&mut self) -> Output {
        let output = self.command.output().unwrap();
        self.assert_nothing_left();
        output
    }

    /// Processes end a moment after their parent has reaped or lost them.
    fn assert_nothing_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(process) = self.process_left() {
            assert!(
                Instant::now() < deadline,
                "still there: {}",
                process.display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn process_left(&self) -> Option<PathBuf> {
        let mark = self.mark.path().as_os_str().as_bytes();
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|process| {
                let environment = fs::read(process.join("environ")).unwrap_or_default();
                environment
                    .split(|byte| *byte == 0)
                    .any(|variable| variable.strip_prefix(b"TMPDIR=") == Some(mark))
            })
    }
}

/// Files of several sizes and names, and what is none: links, a socket.
fn tree() -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir(root.join("empty directory")).unwrap();
    fs::write(root.join("nothing"), b"").unwrap();
    fs::write(root.join("a/hello world"), b"hello world\n").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"a/b/not \xff text")), b"bytes").unwrap();
    // Not a multiple of what is read at once.
    let large: Vec<u8> = (0..3_000_017_u32)
        .map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    fs::write(root.join("a/b/c/large"), large).unwrap();
    symlink(root.join("nothing"), root.join("a/link")).unwrap();
    symlink(root, root.join("a/b/loop")).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    tree
}

/// `(path, bytes, MD5, SHA-256)` of every regular file, by path.
fn expected(root: &Path) -> Vec<(String, u64, String, String)> {
    let files = [
        "nothing".as_bytes(),
        b"a/hello world",
        b"a/b/not \xff text",
        b"a/b/c/large",
    ];
    let mut expected: Vec<_> = files
        .into_iter()
        .map(|name| {
            let path = root.join(OsStr::from_bytes(name));
            let content = fs::read(&path).unwrap();
            let hex = |bytes: &[u8]| {
                bytes
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            };
            let (md5, sha256) = (hex(&Md5::digest(&content)), hex(&Sha256::digest(&content)));
            (
                path.to_string_lossy().into_owned(),
                content.len() as u64,
                md5,
                sha256,
            )
        })
        .collect();
    expected.sort();
    expected
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn json_has_every_digest_every_certificate_and_nothing_else() {
    let tree = tree();
    let output = Run::on(tree.path(), &["--json", "--list"]).output();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let report = json(&output);
    assert_eq!(report["good"], true);

    check_digests(&report["digested"], &expected(tree.path()));
    check_trial(&report["trial"]);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn check_digests(digested: &Value, expected: &[(String, u64, String, String)]) {
    let list: Vec<_> = digested["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            (
                text(&file["path"]),
                file["bytes"].as_u64().unwrap(),
                text(&file["md5"]),
                text(&file["sha256"]),
            )
        })
        .collect();
    assert_eq!(list, expected);
    assert_eq!(digested["files"], expected.len());
    assert_eq!(
        digested["bytes"],
        expected.iter().map(|file| file.1).sum::<u64>()
    );
    assert_eq!(
        (&digested["unreadable"]["count"], &digested["lost"]["count"]),
        (&0.into(), &0.into())
    );
    let shares = digested["workers"].as_array().unwrap();
    assert_eq!(
        shares
            .iter()
            .map(|share| share["files"].as_u64().unwrap())
            .sum::<u64>(),
        expected.len() as u64
    );
}

fn check_trial(trial: &Value) {
    assert_eq!(
        (&trial["good_made"], &trial["good_right"]),
        (&1000.into(), &1000.into())
    );
    assert_eq!(
        (
            &trial["is_whole"],
            trial["workers"].as_array().unwrap().len()
        ),
        (&true.into(), 2)
    );
    let endings = trial["endings"].as_array().unwrap();
    let found: Vec<_> = endings
        .iter()
        .map(|ending| (text(&ending["provoked"]), text(&ending["outcome"])))
        .collect();
    let wanted = [
        ("segfault", "crashed"),
        ("stack overflow", "crashed"),
        ("endless loop", "timed out"),
        ("memory hog", "crashed"),
    ];
    assert_eq!(
        found,
        wanted.map(|(provoked, outcome)| (provoked.to_owned(), outcome.to_owned()))
    );
    for ending in endings {
        let report = &ending["report"];
        assert_eq!(ending["is_expected"], true, "{ending}");
        assert!(report["pid"].as_u64().unwrap() > 1, "{ending}");
        assert!(report["exit"]["Signal"].is_number(), "{ending}");
    }
}

#[test]
fn piped_output_is_plain() {
    let tree = tree();
    let mut run = Run::on(tree.path(), &[]);
    // Where a terminal would be asked for colour.
    run.command.env("TERM", "xterm-256color");
    let output = run.output();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.is_ascii() && !text.contains(['\x1b', '\r']), "{text}");
    let wanted = [
        "Digested (MD5 and SHA-256): 4 files under ",
        "segfault: crashed, killed by a signal, SIGSEGV",
        "stack overflow: crashed, stack overflow",
        "endless loop: timed out, stopped by SIGTERM",
        "memory hog: crashed, out of memory",
        "1,000 of 1,000 good calls gave the right value",
        "The pool is whole again: 2 of 2 workers are ready.",
    ];
    for wanted in wanted {
        assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
}

/// A path over PATH_MAX cannot be opened by anybody, not even by root.
#[test]
fn what_cannot_be_read_is_counted_and_named() {
    let tree = tempfile::tempdir().unwrap();
    let chain =
        |name: &str| (0..14).fold(tree.path().join(name), |path, _| path.join("x".repeat(200)));
    let (upper, lower) = (chain("upper"), chain("lower"));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&lower).unwrap();
    fs::write(upper.join("near"), b"near").unwrap();
    fs::write(lower.join("far"), b"far").unwrap();
    fs::rename(tree.path().join("lower"), upper.join("lower")).unwrap();

    let output = Run::on(tree.path(), &["--json"]).output();
    assert!(
        output.status.success(),
        "an unreadable file is not fatal: {output:?}"
    );
    let digested = &json(&output)["digested"];
    assert_eq!(
        (&digested["files"], &digested["unreadable"]["count"]),
        (&1.into(), &1.into()),
        "{digested}"
    );
    let named = &digested["unreadable"]["named"][0];
    assert!(
        named["path"].as_str().unwrap().contains("/upper/")
            && named["reason"].as_str().unwrap().contains("too long"),
        "{named}"
    );
}

#[test]
fn an_empty_directory_is_fine() {
    let tree = tempfile::tempdir().unwrap();
    let output = Run::on(tree.path(), &["--json"]).output();
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    assert_eq!(
        (&report["digested"]["files"], &report["good"]),
        (&0.into(), &true.into())
    );
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().to_str().unwrap();
    for wrong in [
        &["missing directory"][..],
        &[file],
        &[".", "."],
        &["--workers", "0"],
        &["--workers"],
        &["--quick"],
    ] {
        let output = Run::new(wrong).output();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{wrong:?}: {output:?}"
        );
    }
    let help = Run::new(&["--help"]).output();
    assert!(
        help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Usage: demo"),
        "{help:?}"
    );
}

/// A tree whose list is longer than a pipe holds, so that the program cannot end before it is read.
fn long_list() -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    for index in 0..2_000 {
        fs::write(tree.path().join(format!("file {index}")), index.to_string()).unwrap();
    }
    tree
}

#[test]
fn an_interrupt_ends_it_with_1_and_leaves_no_worker() {
    let tree = long_list();
    let mut run = Run::on(tree.path(), &["--list"]);
    let mut child = run
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    lines.read_to_end(&mut Vec::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "demo: interrupted\n"
    );
    run.assert_nothing_left();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let tree = long_list();
    let mut run = Run::on(tree.path(), &["--list"]);
    let mut child = run
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    run.assert_nothing_left();
}
