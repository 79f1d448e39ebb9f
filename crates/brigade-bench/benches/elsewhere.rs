//! A pool whose workers are on another host: this program started again, joined over loopback TCP.

use std::process::{Child, Command};

use brigade::Pool;
use brigade::remote::{self, Credentials};
use tokio::runtime::Builder;

use crate::load::Result;

/// The argument with which this program is started to be a host.
const HOST: &str = "--brigade-host";
const KEY: &str = "brigade-key-WgrGPrviZ3enH9xDfqjNDCnxsR2SKpjNpf0uOhOozfoxfsms";

/// Serves as a host of two workers if this process was started as one; then it never returns.
pub(crate) fn enter_if_host() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(HOST) {
        let (url, slots) = (
            arguments.next().ok_or("a url")?,
            arguments.next().ok_or("slots")?.parse()?,
        );
        let credentials = Credentials::key(KEY)?;
        let host = remote::serve(url, credentials).workers(2).slots(slots);
        // One thread is enough for the host's own work, and needs no wake-up of another.
        Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(host.run())?;
        std::process::exit(0);
    }
    Ok(())
}

/// A pool of the two workers of a host that joined over loopback TCP, and that host.
#[expect(
    clippy::disallowed_methods,
    reason = "the host is a process of its own"
)]
pub(crate) async fn two_workers(slots: u32) -> Result<(Pool, Child)> {
    let credentials = Credentials::key(KEY)?;
    let pool = Pool::builder()
        .workers(0)
        .listen("tcp://127.0.0.1:0", credentials)
        .start()
        .await?;
    let url = pool.listening().remove(0);
    let host = Command::new("/proc/self/exe")
        .args([HOST, &url, &slots.to_string()])
        .spawn()?;
    pool.ready(1).await?;
    Ok((pool, host))
}
