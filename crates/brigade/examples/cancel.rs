//! Anything can be stopped: a cancel returns a receipt, a kill a report.

use std::time::Duration;

use brigade::{CallError, Context, Pool, TimedOut, task};

/// Checks whether it is wanted, so its worker stays alive and warm.
#[task]
async fn polite(cx: &Context) -> u32 {
    cx.progress(0.5, "half way");
    cx.cancelled().await;
    0
}

/// Never looks up. Only a signal stops it.
#[task]
fn stubborn(cx: &Context) {
    cx.progress(0.1, "spinning");
    loop {
        std::hint::spin_loop();
    }
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // How long an attempt has after it was asked, and then after SIGTERM.
    let (ask, terminate) = (Duration::from_millis(200), Duration::from_millis(200));
    let pool = Pool::builder()
        .workers(2)
        .kill_after(ask, terminate)
        .start()
        .await?;

    let call = pool.call(polite());
    call.progress().next().await;
    if let Some(receipt) = call.cancel("the user left").await {
        println!("polite: {} within {:.0?}", receipt.step, receipt.took);
    }

    let call = pool.call(stubborn());
    call.progress().next().await;
    if let Some(receipt) = call.cancel("the user left").await {
        println!("stubborn: {} within {:.0?}", receipt.step, receipt.took);
    }
    if let Err(CallError::Cancelled(cancelled)) = call.await {
        println!("reason: {}", cancelled.reason);
    }

    if let Err(CallError::TimedOut(TimedOut::Run(report))) = pool
        .call(stubborn().timeout(Duration::from_millis(100)))
        .await
    {
        println!("timed out: {report}");
        println!("last progress: {:?}", report.progress);
    }

    pool.shutdown().await;
    Ok(())
}
