//! Crashes of workers, and the reports that callers get. The other calls are not affected.

#![expect(unconditional_recursion, reason = "the stack overflow that is shown")]

use std::hint::black_box;

use brigade::{Pool, task};

const CAPTURE_BYTES: usize = 16 << 10;

#[task]
fn divide(a: i32, b: i32) -> i32 {
    a / b
}

#[task]
fn abort() {
    std::process::abort();
}

#[task]
fn exit() {
    std::process::exit(3);
}

#[task]
fn overflow() {
    fn descend(depth: u64) -> u64 {
        let frame = black_box([depth; 64]);
        descend(depth + 1) + frame[0]
    }
    black_box(descend(0));
}

#[task(memory = "64MiB")]
fn hog() {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1 << 20]));
    }
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).start().await?;
    println!("6 / 2 = {}", pool.call(divide(6, 2)).await?);
    // Captured, so that what they print does not come out here.
    if let Err(error) = pool.call(divide(6, 0).capture(CAPTURE_BYTES)).await {
        println!("{error}");
    }
    for call in [abort(), exit(), overflow(), hog()] {
        if let Err(error) = pool.call(call.capture(CAPTURE_BYTES)).await {
            println!("{error}");
        }
    }
    println!("6 / 3 = {}", pool.call(divide(6, 3)).await?);
    println!("attempts that crashed: {}", pool.stats().crashed);
    pool.shutdown().await;
    Ok(())
}
