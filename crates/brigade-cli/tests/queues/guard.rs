//! `work`: what its programs get and leave behind, and whom its guard may kill.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid};

use super::desk::{Desk, is_alive, wait_until};

/// Ends with the test.
struct Stranger(Child);

impl Stranger {
    /// A process group that no worker started, with this in its environment.
    fn start(mark: &str, user: Option<u32>) -> Self {
        let mut command = Command::new("sleep");
        command
            .arg("1000")
            .env("BRIGADE_TREE", mark)
            .process_group(0);
        if let Some(user) = user {
            command.uid(user);
        }
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It may have ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs a guard that hears these lines and then the end of its worker.
fn guard_reads(worker: &str, lines: &str) {
    let mut guard = Command::new(env!("CARGO_BIN_EXE_brigade"));
    guard
        .args(["work-guard", worker])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut guard = guard.spawn().unwrap();
    guard
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    assert!(guard.wait().unwrap().success());
}

#[test]
fn a_guard_kills_no_group_whose_number_is_another_s_by_now() {
    let mark = format!("{}-work-{:032x}", std::process::id(), 7);
    let (other, ours) = (Stranger::start("", None), Stranger::start(&mark, None));
    // A worker that has ended: its numbers may belong to other processes by now.
    guard_reads(
        "4194304",
        &format!(
            "+{mark} {}\n+{mark} {}\n",
            other.pid().as_raw_nonzero(),
            ours.pid().as_raw_nonzero()
        ),
    );
    wait_until("the end of the one with the mark", || !is_alive(ours.pid()));
    assert!(is_alive(other.pid()));
}

#[test]
fn a_mark_in_the_environment_of_another_user_means_nothing() {
    if !geteuid().is_root() {
        println!("MISSING: root, so there is no process of another user");
        return;
    }
    let mark = format!("{}-work-{:032x}", std::process::id(), 8);
    let (other, ours) = (
        Stranger::start(&mark, Some(65_534)),
        Stranger::start(&mark, None),
    );
    guard_reads("4194304", &format!("?{mark}\n"));
    wait_until("the end of our own", || !is_alive(ours.pid()));
    assert!(is_alive(other.pid()));
}

#[test]
fn marks_of_programs_cannot_be_guessed() {
    let desk = Desk::new();
    desk.run_with(&["push", "q", "-"], "1\n".repeat(20).as_bytes());
    desk.ok(&[
        "work",
        "q",
        "--until-empty",
        "--",
        "sh",
        "-c",
        r#"echo "${BRIGADE_TREE##*/}" >> "$DESK/marks""#,
    ]);
    let marks = fs::read_to_string(desk.path("marks")).unwrap();
    let secrets: HashSet<&str> = marks
        .lines()
        .map(|mark| mark.rsplit_once('-').unwrap().1)
        .collect();
    assert!(
        secrets.len() == 20 && secrets.iter().all(|secret| secret.len() == 32),
        "{marks}"
    );
}

#[test]
fn a_line_that_the_guard_does_not_know_is_no_reason_to_let_programs_run_on() {
    let mark = format!("{}-work-{:032x}", std::process::id(), 9);
    let ours = Stranger::start(&mark, None);
    guard_reads(
        "4194304",
        &format!("+{mark} {}\nnonsense\n", ours.pid().as_raw_nonzero()),
    );
    wait_until("its end", || !is_alive(ours.pid()));
}

#[test]
fn programs_do_not_have_the_url_of_the_broker_unless_it_was_asked_for() {
    let script = r#"printf '%s' "${BRIGADE_URL-none}""#;
    for (options, expected) in [(&[][..], "none"), (&["--pass-broker-url"], "sqlite:")] {
        let desk = Desk::new();
        desk.push(&["q", "1"]);
        let worked = desk.ok(&[
            &["work", "q", "--until-empty"],
            options,
            &["--", "sh", "-c", script],
        ]
        .concat());
        assert!(worked.starts_with(expected), "{worked}");
    }
}

/// Zombies that are children of this process.
fn zombies(parent: u32) -> usize {
    let stats = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // `pid (name) state ppid ..`, see proc_pid_stat(5).
    let parent = parent.to_string();
    stats
        .filter(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.split(' ').take(2).eq(["Z", &*parent]))
        })
        .count()
}

#[test]
fn a_worker_that_is_the_first_process_of_a_container_reaps_orphans_and_nothing_else() {
    let desk = Desk::new();
    for n in 0..40 {
        desk.push(&["q", &(n % 2).to_string()]);
    }
    // Each leaves children that end after it, out of its group and out of its sight.
    let script =
        r#"setsid sh -c 'sleep 0.05' & setsid sh -c 'exec true' & echo {} >> "$DESK/ran"; exit {}"#;
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        env!("CARGO_BIN_EXE_brigade"),
        "work",
        "q",
        "-j",
        "4",
        "--",
        "sh",
        "-c",
        script,
    ]);
    command.env("DESK", desk.path("")).env(
        "BRIGADE_URL",
        format!("sqlite:{}", desk.path("jobs.db").display()),
    );
    let mut outer = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let done = || fs::read_to_string(desk.path("ran")).is_ok_and(|ran| ran.lines().count() == 40);
    wait_until("all programs", done);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.id())).unwrap();
    let worker = children.trim().parse().unwrap();
    wait_until("the end of all zombies", || zombies(worker) == 0);
    wait_until("the last settlement", || {
        desk.run(&["dead", "ls", "--json"]).documents().len() == 20
    });
    let dead = desk.run(&["dead", "ls", "--json"]).documents();
    assert!(
        dead.iter()
            .all(|job| job["payload"] == 1 && job["reason"] == "exit code 1"),
        "{dead:?}"
    );
    rustix::process::kill_process(Pid::from_raw(worker.cast_signed()).unwrap(), Signal::TERM)
        .unwrap();
    assert!(outer.wait().unwrap().success());
    assert!(!desk.ok(&["queues"]).contains("ready  1"));
}
