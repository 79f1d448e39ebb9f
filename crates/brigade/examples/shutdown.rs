//! A program with a `main` of its own that drains its pool on Ctrl-C or at the end of its work, and
//! follows the events.

use std::time::Duration;

use brigade::{Event, Pool, task};

#[task]
async fn chore(number: u32) -> u32 {
    tokio::time::sleep(Duration::from_millis(20)).await;
    number
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // First of all: a process that is a worker never comes back from here.
    brigade::init();
    run()
}

#[tokio::main]
async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).start().await?;
    let mut events = pool.events();

    for number in 0..10 {
        // Runs on without anybody waiting for it.
        pool.call(chore(number).label(format!("chore {number}")))
            .detach();
    }
    tokio::select! {
        _ = tokio::signal::ctrl_c() => println!("interrupted"),
        last = pool.call(chore(10)) => println!("no more work after chore {}", last?),
    }

    // Nothing new is taken; what was accepted may finish.
    let shutdown = pool.shutdown_within(Duration::from_secs(10)).await;
    println!("drained: {}", shutdown.drained);
    println!(
        "refused afterwards: {}",
        pool.call(chore(11)).await.is_err()
    );

    // The feed ends with the pool.
    drop(pool);
    let (mut done, mut gone) = (0, 0);
    while let Some(event) = events.next().await {
        match event {
            Event::CallEnded {
                outcome: "done", ..
            } => done += 1,
            Event::WorkerGone {
                worker,
                exit,
                expected,
                ..
            } => {
                println!("worker {worker} is gone: {exit}, expected: {expected}");
                gone += 1;
            }
            _ => {}
        }
    }
    println!("{done} chores done, {gone} workers gone");
    Ok(())
}
