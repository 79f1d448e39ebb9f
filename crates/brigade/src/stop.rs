//! [`stop_signal`]: the signals with which terminals and service managers end a program.
//!
//! One thread of the process waits for them and counts; every future looks at that count. So any
//! number of servers and consumers of a program hear of the same signal, on whichever runtime they
//! are, and the second one can mean "at once" to all.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use crate::shutdown::spawn_thread;

/// How many signals came; `None` if they cannot be listened for.
static SIGNALS: OnceLock<Option<watch::Receiver<u32>>> = OnceLock::new();

/// A future of the first SIGINT or SIGTERM, see [`stop_signal`]. Cancel safe.
#[must_use = "it is a future: await it, or give it to Consumer::run_until"]
pub struct StopSignal(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

/// Ends when this process gets its first SIGINT (Ctrl-C) or SIGTERM; at once if it has had one
/// since this was called first. From that call on, these signals do not end the process by
/// themselves any more. Any number of these futures may wait, on any runtime:
///
/// - `broker.consumer().run_until(brigade::stop_signal())` drains at the first signal, and at the
///   second it [is
///   killed](https://docs.rs/brigade/latest/brigade/struct.ConsumerHandle.html#method.kill) and its
///   jobs are given back.
/// - `axum::serve(listener, app).with_graceful_shutdown(brigade::stop_signal())`
/// - in `tokio::select! { () = brigade::stop_signal() => .., .. }`
///
/// Where the system gives no thread or pipe for it, that is logged as an error, and signals end the
/// process as before.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// tokio::select! {
///     () = brigade::stop_signal() => println!("stopping"),
///     () = tokio::time::sleep(std::time::Duration::from_millis(1)) => println!("nothing came"),
/// }
/// # });
/// ```
pub fn stop_signal() -> StopSignal {
    let signals = SIGNALS.get_or_init(|| {
        listen()
            .inspect_err(|error| tracing::error!(%error, "cannot listen for SIGINT and SIGTERM"))
            .ok()
    });
    StopSignal(Box::pin(count_of(signals.clone(), 1)))
}

/// Waits for the second signal; for ever where no [`stop_signal`] was made.
pub(crate) async fn second_signal() {
    count_of(SIGNALS.get().cloned().flatten(), 2).await;
}

async fn count_of(signals: Option<watch::Receiver<u32>>, count: u32) {
    if let Some(mut signals) = signals
        && signals.wait_for(|came| *came >= count).await.is_ok()
    {
        return;
    }
    pending().await
}

fn listen() -> io::Result<watch::Receiver<u32>> {
    const STACK_BYTES: usize = 256 << 10;
    let (count, counted) = watch::channel(0_u32);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    spawn_thread("brigade-signals", STACK_BYTES, move || {
        for signal in signals.forever() {
            tracing::info!(signal, "asked to stop");
            count.send_modify(|count| *count = count.saturating_add(1));
        }
    })?;
    Ok(counted)
}

impl Future for StopSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StopSignal")
    }
}
