//! The tasks that the tests call; most of them misbehave.

#![expect(unsafe_code, reason = "crashes are provoked")]
#![expect(
    clippy::disallowed_methods,
    reason = "a misbehaving task starts threads and programs of its own"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::hint::{black_box, spin_loop};
use std::io::Write as _;
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use brigade::{Bytes, Context, Failure, task};
use brigade_testkit::facts;
use serde::{Deserialize, Serialize};

use crate::gate;

// -- well behaved

#[task]
pub(crate) fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
pub(crate) fn pid() -> u32 {
    std::process::id()
}

#[task]
pub(crate) fn worker_number(cx: &Context) -> u32 {
    cx.worker()
}

#[task]
pub(crate) fn echo(bytes: Bytes) -> Bytes {
    bytes
}

#[task]
pub(crate) fn zeros(count: usize) -> Bytes {
    vec![0; count].into()
}

pub(crate) type Five = (Option<i64>, i64, String, bool, BTreeMap<String, Vec<u8>>);

#[task]
pub(crate) fn five_results() -> Five {
    (
        None,
        -1,
        "text".to_owned(),
        true,
        BTreeMap::from([("key".to_owned(), vec![1, 2])]),
    )
}

#[task(codec = "json")]
pub(crate) fn json_echo(value: serde_json::Value) -> serde_json::Value {
    value
}

/// Waits at a gate.
#[task]
pub(crate) fn hold(gate: String, id: u32) -> u32 {
    gate::pass(&gate, id);
    id
}

/// Waits at a gate without holding a thread.
#[task]
pub(crate) async fn hold_async(gate: String, id: u32) -> u32 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(gate)
        .await
        .expect("the gate is there");
    stream.write_u32_le(id).await.expect("the gate listens");
    stream.read_to_end(&mut Vec::new()).await.ok();
    id
}

/// Adds a line to a file.
#[task]
pub(crate) fn write_line(path: String, line: String) {
    append(&path, &line);
}

pub(crate) fn append(path: &str, line: &str) {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("a file");
    file.write_all(format!("{line}\n").as_bytes())
        .expect("a line");
}

/// Reports progress so many times.
#[task]
pub(crate) fn chatty(cx: &Context, count: u32) -> u32 {
    for number in 0..count {
        cx.progress(f64::from(number) / f64::from(count), (number, "text"));
    }
    count
}

#[task]
pub(crate) fn say(out: String, err: String) {
    println!("{out}");
    eprintln!("{err}");
}

// -- errors

#[derive(Debug)]
pub(crate) struct Outer(Inner);
#[derive(Debug)]
pub(crate) struct Inner;

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the outer error")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the inner error")
    }
}

impl std::error::Error for Inner {}

#[task]
pub(crate) fn fail_with_source() -> Result<i64, Outer> {
    Err(Outer(Inner))
}

#[task]
pub(crate) async fn answer_or_fail(fails: bool) -> Result<i64, Failure> {
    tokio::task::yield_now().await;
    if fails {
        Err(Failure::new("rejected"))
    } else {
        Ok(42)
    }
}

#[task]
pub(crate) fn fail_with_details() -> Result<(), Failure> {
    Err(Failure::new("with data")
        .with_details(&serde_json::json!({"value": 42, "nested": {"list": [1, null]}})))
}

/// An error that says nothing, whose chain of sources never ends.
#[derive(Debug)]
pub(crate) struct Endless;

impl fmt::Display for Endless {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Endless {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&Endless)
    }
}

#[task]
pub(crate) fn fail_endlessly() -> Result<(), Endless> {
    Err(Endless)
}

/// Fails, and wants to be tried again so much later.
#[task]
pub(crate) fn fail_and_wait(cx: &Context, seconds: u64) -> Result<i64, Failure> {
    Err(cx.retry_in(std::time::Duration::from_secs(seconds)))
}

#[task]
pub(crate) fn panic_with(text: String) {
    panic!("{text}");
}

#[task]
pub(crate) fn panic_without_text() {
    std::panic::panic_any(7_u8);
}

/// What no format can write.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Unfit;

impl Serialize for Unfit {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is unfit to travel"))
    }
}

#[task]
pub(crate) fn unfit_result() -> Unfit {
    Unfit
}

#[task]
pub(crate) fn unfit_argument(_unfit: Unfit) {}

// -- stops

/// Runs until it is asked to stop, then cleans up behind a gate.
#[task]
pub(crate) fn polite(cx: &Context, gate: String) {
    let (asked, wait) = sync_channel(1);
    cx.on_cancel(move |_| {
        asked.send(()).ok();
    });
    cx.progress(0.0, "begun");
    wait.recv().ok();
    gate::pass(&gate, 0);
}

/// As `polite`, async.
#[task]
pub(crate) async fn polite_async(cx: &Context, gate: String) {
    cx.progress(0.0, "begun");
    cx.cancelled().await;
    gate::pass(&gate, 0);
}

/// Reports from inside its abort listener why it was stopped.
#[task]
pub(crate) fn last_report(cx: &Context) {
    let (asked, wait) = sync_channel(1);
    let told = cx.clone();
    cx.on_cancel(move |reason| {
        println!("stopped: {reason}");
        told.progress(1.0, format!("stopped: {reason}"));
        asked.send(()).ok();
    });
    cx.progress(0.0, "begun");
    wait.recv().ok();
}

/// Registers an abort listener that never returns.
#[task]
pub(crate) fn deaf(cx: &Context) {
    cx.on_cancel(|_| park_for_ever());
    cx.progress(0.0, "begun");
    park_for_ever();
}

/// Writes to a file if it is ever asked to stop, and ends at once.
#[task]
pub(crate) fn leaves_a_listener(cx: &Context, path: String) {
    cx.on_cancel(move |_| append(&path, "called"));
}

fn park_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

#[task]
pub(crate) fn spin(cx: &Context) {
    cx.progress(0.0, "begun");
    loop {
        spin_loop();
    }
}

#[task]
pub(crate) fn spin_without_sigterm(cx: &Context) {
    // SAFETY: ignoring a signal is always allowed.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    cx.progress(0.0, "begun");
    loop {
        spin_loop();
    }
}

/// Reports progress as fast as it can, for ever.
#[task]
pub(crate) fn chatter_for_ever(cx: &Context) {
    loop {
        cx.progress(0.5, "on and on");
    }
}

// -- ends of the process

#[task]
pub(crate) fn exit_with(code: i32) {
    std::process::exit(code);
}

#[task]
pub(crate) fn abort() {
    std::process::abort();
}

#[task]
pub(crate) fn segfault() {
    // SAFETY: none; the fault is the purpose.
    unsafe { black_box(std::ptr::null_mut::<u8>()).write_volatile(1) };
}

#[task]
pub(crate) fn overflow_stack(depth: u64) -> u64 {
    deeper(depth)
}

#[task]
pub(crate) fn overflow_a_thread() {
    std::thread::Builder::new()
        .name("parser".to_owned())
        .spawn(|| deeper(1))
        .unwrap()
        .join()
        .unwrap();
}

#[expect(unconditional_recursion, reason = "the overflow is the purpose")]
fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    deeper(depth + 1) + frame[7]
}

#[task]
pub(crate) fn hog() -> usize {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
        black_box(&held);
    }
}

/// Reads all constant pages of the program's file, again and again for this time. Gives how many
/// bytes of files are resident then.
#[task]
pub(crate) fn read_own_file(time: Duration) -> u64 {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
        maps.lines().filter_map(constant_pages).for_each(|pages| {
            for page in pages.step_by(4096) {
                // SAFETY: the page is mapped, may be read and does not change.
                unsafe { std::ptr::with_exposed_provenance::<u8>(page).read_volatile() };
            }
        });
    }
    facts::file_bytes(std::process::id())
}

/// The addresses of a line of `/proc/self/maps` that maps code or constants of this program.
fn constant_pages(line: &str) -> Option<Range<usize>> {
    let program = std::fs::read_link("/proc/self/exe").ok()?;
    let is_constant = line.contains(" r--p ") || line.contains(" r-xp ");
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (is_constant && line.ends_with(program.to_str()?)).then_some(address(from)?..address(to)?)
}

/// Takes memory and keeps it after it has returned.
#[task]
pub(crate) fn leak(bytes: usize) -> u32 {
    std::mem::forget(vec![1_u8; bytes]);
    std::process::id()
}

/// Has a program fill memory: one that keeps a line of so many bytes.
#[task]
pub(crate) fn fill_by_child(bytes: usize) {
    let script = format!("head -c {bytes} /dev/zero | tail -n 1 | wc -c");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success());
}

/// Fills memory, then waits at a gate with it.
#[task]
pub(crate) fn fill(bytes: usize, gate: String, id: u32) -> usize {
    let filled = vec![1_u8; bytes];
    crate::gate::pass(&gate, id);
    std::hint::black_box(&filled).len()
}

#[task]
pub(crate) fn close_descriptors(cx: &Context) {
    cx.progress(0.0, "begun");
    // SAFETY: none; closing what others own is the misbehaviour.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    park_for_ever();
}

/// Starts programs that outlive it; returns their process ids.
#[task]
pub(crate) fn fork_children(cx: &Context, count: usize, then_spin: bool) -> Vec<u32> {
    let start = |_| {
        std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .expect("sleep starts")
            .id()
    };
    let children: Vec<u32> = (0..count).map(start).collect();
    cx.progress(0.0, &children);
    if then_spin {
        loop {
            spin_loop();
        }
    }
    children
}

// -- threads that outlive their attempt

#[task]
pub(crate) fn panic_in_a_thread() -> u32 {
    std::thread::spawn(|| panic!("a stray thread")).join().ok();
    std::process::id()
}

/// Ends its process when it is let through the gate, long after it returned.
#[task]
pub(crate) fn exit_later(gate: String) -> u32 {
    std::thread::spawn(move || {
        gate::pass(&gate, 0);
        std::process::exit(0);
    });
    std::process::id()
}

/// Reports progress after it has returned; knocks before and after that.
#[task]
pub(crate) fn chatter_later(cx: &Context, gate: String) {
    let late = cx.clone();
    std::thread::spawn(move || {
        gate::pass(&gate, 1);
        late.progress(0.9, "too late");
        gate::pass(&gate, 2);
    });
}

// -- what a worker is like

#[task]
pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars().collect()
}

#[task]
pub(crate) fn arguments_and_directory() -> (Vec<String>, String) {
    let directory = std::env::current_dir().expect("a directory");
    (
        std::env::args().skip(1).collect(),
        directory.to_str().expect("a path that is text").to_owned(),
    )
}

/// Where the worker's open descriptors lead to.
#[task]
pub(crate) fn open_files() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("proc");
    let target =
        |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    entries
        .filter_map(target)
        .map(|path| path.to_string_lossy().into_owned())
        .collect()
}

#[task]
pub(crate) fn niceness() -> i32 {
    rustix::process::getpriority_process(None).expect("a niceness")
}

#[task]
pub(crate) fn allowed_cpus() -> Vec<usize> {
    cpus_of_this_process()
}

pub(crate) fn cpus_of_this_process() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).expect("an affinity");
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect()
}

/// A pool within a worker: the sum, and how nice the workers of both are.
#[task]
pub(crate) async fn nested(a: i64, b: i64, nice: i32) -> Result<(i64, i32, i32), Failure> {
    let own = rustix::process::getpriority_process(None).map_err(Failure::new)?;
    let pool = brigade::Pool::builder()
        .workers(1)
        .nice(nice)
        .start()
        .await
        .map_err(Failure::new)?;
    let sum = pool.call(add(a, b)).await.map_err(Failure::new)?;
    let inner = pool.call(niceness()).await.map_err(Failure::new)?;
    pool.shutdown().await;
    Ok((sum, own, inner))
}
