//! A task reports progress while it runs, with a payload of its own type.

use std::time::Duration;

use brigade::{Context, Pool, task};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    name: String,
    items: u32,
}

#[task]
async fn build(cx: &Context, parts: [String; 3]) -> u32 {
    let mut items = 0;
    for (fraction, name) in [0.33, 0.67, 1.0].into_iter().zip(parts) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        items += 10;
        // Never waits for the caller.
        cx.progress(fraction, Step { name, items });
    }
    items
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(1).start().await?;

    let call = pool.call(build(["frame", "wheels", "paint"].map(str::to_owned)));
    let mut progress = call.progress();
    // Ends with the call.
    while let Some(update) = progress.next().await {
        let step: Step = update.payload()?;
        println!(
            "{:>3.0} % {} ({} items)",
            100.0 * update.fraction(),
            step.name,
            step.items
        );
    }
    println!("built {} items", call.await?);

    pool.shutdown().await;
    Ok(())
}
