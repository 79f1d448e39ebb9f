//! Plain functions and closures on worker processes: nothing to register.

use std::time::Duration;

use brigade::{Call, Pool};

fn primes_below(limit: u32) -> Vec<u32> {
    (2..limit)
        .filter(|n| (2..*n).all(|divisor| n % divisor != 0))
        .collect()
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).start().await?;

    let primes = pool.run(primes_below, (30,)).await?;
    println!("primes below 30: {primes:?}");

    // A closure that captures nothing will do as well; what it needs comes as arguments.
    let product = pool.run(|a: i64, b: i64| a * b, (6, 7)).await?;
    println!("6 * 7 = {product}");

    // A call starts when it is made, not when it is awaited: these two run at the same time.
    let (some, more) = (
        pool.run(primes_below, (20_000,)),
        pool.run(primes_below, (10_000,)),
    );
    println!(
        "below 20000: {}, below 10000: {}",
        some.await?.len(),
        more.await?.len()
    );

    let elsewhere = pool.run(std::process::id, ()).await?;
    println!(
        "ran in another process: {}",
        elsewhere != std::process::id()
    );

    // Options sit on the described call.
    let forever = || loop {
        std::hint::spin_loop();
    };
    let call: Call<()> = Call::of(forever, &()).timeout(Duration::from_millis(100));
    match pool.call(call).await {
        Ok(()) => println!("an endless loop ended"),
        Err(error) => println!("stopped: {error}"),
    }

    pool.shutdown().await;
    Ok(())
}
