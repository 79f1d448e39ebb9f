//! What the hosts run.

use std::io::Write as _;

use brigade::{Bytes, Context, Failure, Pass, task};

use crate::gate;

#[task]
pub(crate) fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// Takes so many milliseconds. Returns its process.
#[task]
pub(crate) fn work_for(millis: u64) -> u32 {
    let (since, time) = (
        std::time::Instant::now(),
        std::time::Duration::from_millis(millis),
    );
    while since.elapsed() < time {
        std::hint::spin_loop();
    }
    std::process::id()
}

#[task]
pub(crate) fn numbers(cx: &Context) -> (u64, u32) {
    (cx.call(), cx.attempt())
}

#[task]
pub(crate) fn echo(bytes: Bytes) -> Bytes {
    bytes
}

#[task]
pub(crate) fn zeros(count: usize) -> Bytes {
    vec![0; count].into()
}

/// Waits at a gate.
#[task]
pub(crate) fn hold(gate: String, id: u32) -> u32 {
    gate::pass(&gate, id);
    id
}

/// Waits at a gate, and may do so twice.
#[task(idempotent)]
pub(crate) fn hold_or_again(gate: String, id: u32) -> u32 {
    gate::pass(&gate, id);
    id
}

#[task(labels = ["gpu"])]
pub(crate) fn on_gpu() -> u32 {
    std::process::id()
}

#[task]
pub(crate) fn fail(text: String) -> Result<(), Failure> {
    Err(Failure::new(text).with_details(&7))
}

#[task]
pub(crate) fn pass() -> Result<u32, Pass> {
    Err(Pass::new("not me"))
}

#[task]
pub(crate) fn panic_with(text: String) {
    panic!("{text}");
}

#[task]
pub(crate) fn crash(last_words: String) {
    eprintln!("{last_words}");
    std::process::abort();
}

/// Stops when it is asked.
#[task]
pub(crate) async fn patient(cx: &Context) -> Option<String> {
    cx.progress(0.0, "begun");
    cx.cancelled().await;
    cx.cancel_reason().map(str::to_owned)
}

/// Never ends by itself.
#[task]
pub(crate) fn spin(cx: &Context) {
    cx.progress(0.0, "begun");
    loop {
        std::hint::spin_loop();
    }
}

#[task]
pub(crate) fn tell(cx: &Context, count: u32) -> u32 {
    for number in 0..count {
        cx.progress(f64::from(number) / f64::from(count), number);
    }
    count
}

#[task]
pub(crate) fn print(out: String, err: String) {
    print!("{out}");
    eprint!("{err}");
}

/// Uses this many MiB.
#[task]
pub(crate) fn hoard(mebibytes: usize) -> usize {
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        held.push(vec![1_u8; 1 << 20]);
    }
    held.len()
}

/// Adds a line to a file, in one write.
#[task]
pub(crate) fn append_id(path: String, id: u64) -> u64 {
    append(&path, id)
}

/// The same, and may do so twice.
#[task(idempotent)]
pub(crate) fn append_id_again(path: String, id: u64) -> u64 {
    append(&path, id)
}

/// Fails at its first attempt, with a line for each.
#[task]
pub(crate) fn fail_first(cx: &Context, path: String, id: u64) -> Result<u32, Failure> {
    append(&path, id);
    if cx.attempt() == 1 {
        Err(Failure::new("not yet"))
    } else {
        Ok(cx.attempt())
    }
}

fn append(path: &str, id: u64) -> u64 {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("a file");
    file.write_all(format!("{id}\n").as_bytes())
        .expect("a line");
    id
}

/// A plain function that other hosts may be asked for.
pub(crate) fn mul(a: i64, b: i64) -> i64 {
    a * b
}

brigade::functions!(mul);
