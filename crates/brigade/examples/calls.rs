//! Calls through a broker, and workers that reload one after the other.
//!
//!     cargo run --example calls
//!     cargo run --features rabbitmq --example calls -- amqp://localhost/?ns=example

#![expect(clippy::disallowed_methods, reason = "a program spawns its own tasks")]

use std::future::pending;
use std::sync::Mutex;

use brigade::{Broker, Pass, task};

/// What the workers know; both are in this process here, so they share it.
static GREETING: Mutex<Option<&str>> = Mutex::new(None);

#[task]
fn greet(name: String) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    match *GREETING.lock().expect("no holder panics") {
        Some(greeting) => Ok(format!("{greeting}, {name}")),
        // Another worker, which has loaded its greeting, should take this.
        None => Err(Pass::new("no greeting yet").into()),
    }
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "sqlite::memory:".to_owned());
    let broker = Broker::connect(&url).await?;
    let mut workers = Vec::new();
    let mut handles = Vec::new();
    for _ in 0..2 {
        let worker = broker.consumer().task(greet).prefetch(1).in_process();
        handles.push(worker.handle());
        workers.push(tokio::spawn(worker.run_until(pending::<()>())));
    }

    // The call starts here; the workers pass it until one can greet.
    let waiting = broker.call(greet("Ada".into()).wait_out_passes());

    // In a deployment each process does this when its data has changed; the broker lets them take
    // turns.
    for (number, handle) in (1..).zip(&handles) {
        handle
            .reload(async { *GREETING.lock().expect("no holder panics") = Some("hello") })
            .await?;
        println!("worker {number} has loaded");
    }
    println!("{}", waiting.await?);
    println!("{}", broker.call(greet("Grace".into())).await?);

    for handle in handles {
        handle.drain();
    }
    for worker in workers {
        worker.await??;
    }
    Ok(())
}
