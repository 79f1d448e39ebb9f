//! A whole program with a `main` of its own, started again in several roles: what cannot be seen
//! from within a test harness.
//!
//! It is its own harness, so that it has a real `main`; it answers `--list` and runs single tests
//! as nextest asks.

#![expect(clippy::disallowed_methods, reason = "starts itself in several roles")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use brigade::{Context, Pool, task};

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
fn spin(cx: &Context) {
    cx.progress(0.0, "begun");
    loop {
        std::hint::spin_loop();
    }
}

/// Prints, and then holds its worker for ever.
#[task]
fn print_and_stay() {
    println!("printed by the task");
    loop {
        std::thread::park();
    }
}

/// The user that a worker has the rights of.
#[task]
fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

const TESTS: [(&str, fn()); 10] = [
    (
        "a_setuid_program_never_obeys_a_process_that_starts_it_as_a_worker",
        setuid_copy_is_attacked,
    ),
    (
        "a_stack_overflow_is_reported_in_every_thread_and_names_it",
        overflows_are_reported,
    ),
    (
        "lines_of_several_workers_are_passed_on_whole_and_none_is_lost_where_our_output_is_non_blocking",
        lines_stay_whole,
    ),
    ("a_prompt_without_an_end_of_line_is_seen", prompt_is_seen),
    (
        "the_output_of_workers_may_go_to_standard_error",
        output_goes_to_stderr,
    ),
    (
        "a_program_that_calls_init_within_an_async_runtime_runs_async_tasks",
        init_within_a_runtime,
    ),
    (
        "wp42_lb10_when_the_parent_is_killed_its_workers_end_whatever_they_do",
        workers_end_with_their_parent,
    ),
    (
        "bad_use_a_program_that_never_calls_init_gets_an_error_and_starts_nothing",
        without_init,
    ),
    (
        "pi43_bad_use_what_a_worker_prints_comes_out_while_the_caller_waits",
        output_is_passed_on,
    ),
    (
        "wp1_main_runs_once_and_workers_never_reach_it",
        main_runs_once,
    ),
];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("role-bare") => bare(),
        Some("role-host") => host(),
        Some("role-printer") => printer(),
        Some("role-count") => count(),
        Some("role-attacker") => attacker(),
        Some("role-overflow") => overflow(),
        Some("role-lines") => lines(),
        Some("role-prompt") => prompt(),
        Some("role-stderr") => stderr(),
        Some("role-late-init") => late_init(),
        _ => run_tests(),
    }
}

/// As the standard harness, as far as `cargo test` and nextest need it.
fn run_tests() -> ExitCode {
    // A worker is this program without a role.
    brigade::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| {
        filter.is_none_or(|filter| {
            if has("--exact") {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        })
    };
    for (name, run) in TESTS
        .into_iter()
        .filter(|(name, _)| wanted(name) && !has("--ignored"))
    {
        println!("{name}: test");
        if !has("--list") {
            run();
        }
    }
    ExitCode::SUCCESS
}

// -- roles

/// Starts a pool without having called `brigade::init()`.
fn bare() -> ExitCode {
    println!("main was reached");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(Pool::builder().workers(1).start()) {
        Ok(_) => println!("started"),
        Err(error) => println!("{:?}: {error}", error.kind()),
    }
    ExitCode::SUCCESS
}

/// Starts a pool with a busy and an idle worker, prints their process ids and stays.
#[brigade::main(flavor = "current_thread")]
async fn host() -> ExitCode {
    let pool = Pool::builder()
        .workers(3)
        .start()
        .await
        .expect("the pool starts");
    let busy = [pool.call(spin()), pool.call(print_and_stay())];
    busy[0].progress().next().await;
    let pids: Vec<String> = pool
        .workers()
        .iter()
        .filter_map(|worker| Some(worker.pid?.to_string()))
        .collect();
    println!("workers {}", pids.join(" "));
    let [spins, _stays] = busy;
    spins.await.expect_err("it never ends by itself");
    ExitCode::SUCCESS
}

#[brigade::main]
async fn printer() -> ExitCode {
    let pool = Pool::builder()
        .workers(1)
        .start()
        .await
        .expect("the pool starts");
    pool.call(print_and_stay())
        .await
        .expect_err("it never ends by itself");
    ExitCode::SUCCESS
}

/// Prints a line per process that reaches `main`.
#[brigade::main(worker_threads = 1)]
async fn count() -> ExitCode {
    println!("main was reached");
    let pool = Pool::builder()
        .workers(2)
        .start()
        .await
        .expect("the pool starts");
    let sum = pool.call(add(20, 22)).await.expect("a sum");
    let listens = pool
        .run(|| tracing::enabled!(tracing::Level::ERROR), ())
        .await
        .expect("an answer");
    assert!(
        !listens,
        "where the host listens to nothing, its workers have no subscriber"
    );
    let product = pool
        .run(|a: i64, b: i64| a * b, (6, 7))
        .await
        .expect("a product");
    pool.shutdown().await;
    println!("{sum} {product}");
    ExitCode::SUCCESS
}

/// Runs a task in the program that the second argument names, or in this one.
#[brigade::main(flavor = "current_thread")]
async fn attacker() -> ExitCode {
    let mut builder = Pool::builder().workers(1);
    if let Some(program) = std::env::args_os().nth(2) {
        builder = builder.program(program, [""; 0]);
    }
    match builder.start().await {
        Ok(pool) => println!(
            "ran as {}",
            pool.call(effective_user()).await.expect("it runs")
        ),
        Err(error) => println!("{:?}: {error}", error.kind()),
    }
    ExitCode::SUCCESS
}

#[task]
async fn add_later(a: i64, b: i64) -> i64 {
    tokio::task::yield_now().await;
    tokio::spawn(async move { a + b })
        .await
        .expect("it does not panic")
}

#[tokio::main]
async fn late_init() -> ExitCode {
    brigade::init();
    for slots in [1, 4] {
        let pool = Pool::builder()
            .workers(1)
            .slots(slots)
            .start()
            .await
            .expect("the pool starts");
        println!(
            "{:?} {:?}",
            pool.call(add(3, 4)).await,
            pool.call(add_later(3, 4)).await
        );
        pool.shutdown().await;
    }
    ExitCode::SUCCESS
}

fn descend(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        0
    } else {
        descend(depth + 1) + frame[0]
    }
}

/// Frames of 2 MiB, which step over any guard page.
fn descend_in_leaps(depth: u64) -> u64 {
    let frame = std::hint::black_box([1_u8; 2 << 20]);
    if depth == 0 {
        0
    } else {
        descend_in_leaps(depth - 1) + u64::from(frame[17])
    }
}

#[task]
fn overflow_in(place: String) -> u64 {
    let threads = || std::thread::Builder::new().name("parser".to_owned());
    match place.as_str() {
        "main" => descend(0),
        "parser" => threads()
            .stack_size(64 << 20)
            .spawn(|| descend(0))
            .expect("a thread")
            .join()
            .expect("it never ends"),
        "leaps" => threads()
            .spawn(|| descend_in_leaps(9))
            .expect("a thread")
            .join()
            .expect("it never ends"),
        _ => descend_in_leaps(9),
    }
}

#[task]
async fn overflow_in_a_blocking_thread() -> u64 {
    tokio::task::spawn_blocking(|| descend(0))
        .await
        .expect("it never ends")
}

#[brigade::main(flavor = "current_thread")]
async fn overflow() -> ExitCode {
    let pool = Pool::builder()
        .workers(1)
        .start()
        .await
        .expect("the pool starts");
    let mut calls: Vec<_> = ["main", "main leaps", "parser", "leaps"]
        .map(|place| overflow_in(place.to_owned()))
        .into();
    calls.push(overflow_in_a_blocking_thread());
    for call in calls {
        let error = pool.call(call).await.expect_err("it overflows");
        let report = error.report().expect("the process ended");
        let said = report.stderr.contains("has overflowed its stack");
        println!(
            "{}, {:?}, {said}",
            report.ended,
            report.thread.as_deref().unwrap_or_default()
        );
    }
    ExitCode::SUCCESS
}

/// Prints lines of several lengths, at times in two pieces.
#[task]
fn chat(who: usize) {
    let mut out = std::io::stdout().lock();
    for number in 0..LINES {
        let line = format!(
            "<{who}:{number}:{}>",
            "x".repeat(WIDTHS[number % WIDTHS.len()])
        );
        let (one, two) = line.split_at(line.len() / 2);
        out.write_all(one.as_bytes()).expect("it is read");
        if number % 5 == 0 {
            out.flush().expect("it is read");
        }
        writeln!(out, "{two}").expect("it is read");
    }
}

const TALKERS: usize = 4;
const LINES: usize = 400;
const WIDTHS: [usize; 4] = [3, 90, 700, 20_000];

#[brigade::main(flavor = "current_thread")]
async fn lines() -> ExitCode {
    let pool = Pool::builder()
        .workers(TALKERS)
        .start()
        .await
        .expect("the pool starts");
    let calls: Vec<_> = (0..TALKERS).map(|who| pool.call(chat(who))).collect();
    for call in calls {
        call.await.expect("it prints");
    }
    pool.shutdown().await;
    ExitCode::SUCCESS
}

#[task]
fn ask_and_stay() {
    print!("your name? ");
    std::io::stdout().flush().expect("it is read");
    loop {
        std::thread::park();
    }
}

#[brigade::main(flavor = "current_thread")]
async fn prompt() -> ExitCode {
    let pool = Pool::builder()
        .workers(1)
        .start()
        .await
        .expect("the pool starts");
    pool.call(ask_and_stay())
        .await
        .expect_err("it never ends by itself");
    ExitCode::SUCCESS
}

#[brigade::main(flavor = "current_thread")]
async fn stderr() -> ExitCode {
    let pool = Pool::builder()
        .workers(1)
        .stdout_to_stderr(true)
        .start()
        .await
        .expect("the pool starts");
    pool.run(|| print!("half a line"), ())
        .await
        .expect("it prints");
    println!("{{\"protocol\": 1}}");
    pool.shutdown().await;
    ExitCode::SUCCESS
}

// -- tests

/// This program in a role; killed when dropped.
struct Program(Child);

impl Program {
    fn start(role: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        Self(
            Command::new(program)
                .arg(role)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .expect("it starts"),
        )
    }

    /// The first line that begins with this.
    fn line(&mut self, beginning: &str) -> String {
        let mut lines = BufReader::new(self.0.stdout.as_mut().expect("a pipe")).lines();
        lines
            .find_map(|line| line.ok().filter(|line| line.starts_with(beginning)))
            .expect("the line comes")
    }

    /// All that it prints until it ends.
    fn output(mut self) -> String {
        let mut text = String::new();
        self.0
            .stdout
            .take()
            .expect("a pipe")
            .read_to_string(&mut text)
            .expect("text");
        assert!(self.0.wait().expect("it ends").success());
        text
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn is_alive(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

fn workers_end_with_their_parent() {
    let mut host = Program::start("role-host");
    let line = host.line("workers ");
    let workers: Vec<&str> = line.split(' ').skip(1).collect();
    assert_eq!(workers.len(), 3);
    assert!(workers.iter().all(|pid| is_alive(pid)));
    host.0.kill().expect("SIGKILL");
    let patience = Instant::now() + Duration::from_secs(60);
    while workers.iter().any(|pid| is_alive(pid)) {
        assert!(
            Instant::now() < patience,
            "workers outlive their parent: {line}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn without_init() {
    let text = Program::start("role-bare").output();
    let (first, rest) = text.split_once('\n').expect("two lines");
    assert_eq!(first, "main was reached");
    assert!(
        rest.starts_with("NotInitialized: ") && rest.contains("#[brigade::main]"),
        "{rest}"
    );
    assert!(
        !rest.contains("main was reached"),
        "no other process ran main"
    );
}

fn output_is_passed_on() {
    let mut printer = Program::start("role-printer");
    // The task never ends, so the line comes while the caller waits.
    assert_eq!(printer.line("printed"), "printed by the task");
    std::io::stdout().flush().ok();
}

fn main_runs_once() {
    assert_eq!(
        Program::start("role-count").output(),
        "main was reached\n42 42\n"
    );
}

/// The user who attacks, and the owner of the program. Neither needs to be in any list.
const ATTACKER: u32 = 44_242;
const OWNER: u32 = 44_243;

fn setuid_copy_is_attacked() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes a setuid program of another user, for which it must run as root"
    );
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))
        .expect("it is ours");
    let copy = |name: &str, mode: u32| {
        let path = directory.path().join(name);
        std::fs::copy(std::env::current_exe().expect("this program"), &path).expect("a copy");
        std::os::unix::fs::chown(&path, Some(OWNER), Some(OWNER)).expect("root may");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("root may");
        path
    };
    let plain = copy("plain", 0o755);
    let run = |program: &std::path::Path, arguments: &[&std::path::Path]| {
        let mut command = Command::new(program);
        command
            .arg("role-attacker")
            .args(arguments)
            .uid(ATTACKER)
            .gid(ATTACKER)
            .current_dir("/")
            .stdin(Stdio::null());
        String::from_utf8(command.output().expect("it starts").stdout).expect("text")
    };
    assert_eq!(
        run(&plain, &[&plain]),
        format!("ran as {ATTACKER}\n"),
        "the attack works where there is nothing to gain"
    );
    for mode in [0o4755, 0o2755, 0o6755] {
        let target = copy("target", mode);
        let text = run(&plain, &[&target]);
        assert!(
            text.starts_with("CannotStart: ")
                && text.contains("setuid, setgid or file-capability program"),
            "{mode:o}: {text}"
        );
        // As a host it says so at once, and starts nothing.
        let text = run(&target, &[]);
        assert!(
            text.starts_with("Unsupported: ") && text.contains("AmbientCapabilities"),
            "{mode:o}: {text}"
        );
    }
}

fn init_within_a_runtime() {
    assert_eq!(
        Program::start("role-late-init").output(),
        "Ok(7) Ok(7)\nOk(7) Ok(7)\n"
    );
}

fn overflows_are_reported() {
    let threads = ["main", "main", "parser", "parser", "brigade-async"];
    let expected: String = threads
        .map(|thread| format!("stack overflow, {thread:?}, true\n"))
        .concat();
    assert_eq!(Program::start("role-overflow").output(), expected);
}

fn lines_stay_whole() {
    for blocking in [true, false] {
        let (ours, theirs) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        rustix::io::ioctl_fionbio(&theirs, !blocking).expect("it is ours");
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        let mut child = Program(
            command
                .arg("role-lines")
                .stdin(Stdio::null())
                .stdout(Stdio::from(theirs))
                .spawn()
                .expect("it starts"),
        );
        drop(command);
        let mut next = [0; TALKERS];
        for line in BufReader::new(std::fs::File::from(ours)).lines() {
            let line = line.expect("text");
            let fields: Vec<&str> = line.split([':', '<', '>']).collect();
            let ["", who, number, text, ""] = fields[..] else {
                panic!("a line is cut: {:.200}", line)
            };
            let who: usize = who.parse().expect("a number");
            assert_eq!(number, next[who].to_string(), "of {who}, in order");
            assert!(
                text == "x".repeat(WIDTHS[next[who] % WIDTHS.len()]),
                "whole"
            );
            next[who] += 1;
        }
        assert_eq!(next, [LINES; TALKERS], "blocking: {blocking}");
        assert!(child.0.wait().expect("it ends").success());
    }
}

fn prompt_is_seen() {
    let mut program = Program::start("role-prompt");
    let mut seen = [0; 11];
    program
        .0
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut seen)
        .expect("it is printed");
    assert_eq!(&seen, b"your name? ");
}

fn output_goes_to_stderr() {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .arg("role-stderr")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"protocol\": 1}\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "half a line");
}
