//! A call for each item of a stream: in order, as they come, and never more ahead than wanted.

use std::cell::Cell;
use std::time::Duration;

use brigade::{Pool, task};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

#[task]
async fn square(n: u64) -> u64 {
    // The first ones take longest.
    tokio::time::sleep(Duration::from_millis(80 / (n + 1))).await;
    n * n
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).slots(4).start().await?;

    let ordered: Vec<u64> = pool
        .map(stream::iter(0..8), square)
        .ordered()
        .try_collect()
        .await?;
    println!("ordered: {ordered:?}");

    let mut unordered: Vec<u64> = pool
        .map(stream::iter(0..8), square)
        .unordered()
        .try_collect()
        .await?;
    println!("as they come: {unordered:?}");
    unordered.sort_unstable();
    println!("the same values: {}", unordered == ordered);

    // Inputs are taken as results are read, so the stream may be endless.
    let taken = Cell::new(0);
    let inputs = stream::iter(0..).inspect(|_| taken.set(taken.get() + 1));
    let first: Vec<u64> = pool
        .map(inputs, square)
        .in_flight(3)
        .ordered()
        .take(5)
        .try_collect()
        .await?;
    println!(
        "first five of endless: {first:?}, at most 8 inputs taken: {}",
        taken.get() <= 8
    );

    pool.shutdown().await;
    Ok(())
}
