//! This test program once more, with a connection of its own to the place of a case: a process that
//! the case can kill.

use std::future::Future;
use std::io::{self, BufRead, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use brigade::Broker;

use crate::subject::OpenPlace;
use crate::tested_store::TestedStore;

/// Names the store that the process connects to.
const STORE_VARIABLE: &str = "BRIGADE_CONFORMANCE_STORE";
/// The address of the place.
const ADDRESS_VARIABLE: &str = "BRIGADE_CONFORMANCE_ADDRESS";

/// A running process. Dropping it kills it.
pub(crate) struct ChildProcess {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl ChildProcess {
    /// Starts the process, which [`run`]s.
    #[expect(
        clippy::disallowed_methods,
        reason = "a case kills the process, so it is none of a pool's"
    )]
    pub(crate) fn start(place: &OpenPlace) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(STORE_VARIABLE, place.store.name())
            .env(ADDRESS_VARIABLE, &place.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Self { child, output })
    }

    /// Waits until it prints this line.
    #[expect(
        clippy::disallowed_methods,
        reason = "the pipe ends with the process, and so does the read"
    )]
    pub(crate) async fn wait_for_line(&mut self, wanted: &'static str) -> io::Result<()> {
        let output = self.output.take();
        let reading = tokio::task::spawn_blocking(move || {
            let lines = output.into_iter().flat_map(BufRead::lines);
            lines.flatten().any(|line| line == wanted)
        });
        match reading.await {
            Ok(true) => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It has ended already if this fails.
        self.kill().ok();
    }
}

/// What that process does: `work` on a connection of its own, until it is killed or the process
/// that started it ends. `None` in any other process.
pub(crate) fn run<F: Future<Output = ()>>(
    stores: &[&'static dyn TestedStore],
    work: impl FnOnce(Broker) -> F,
) -> Option<ExitCode> {
    let name = std::env::var(STORE_VARIABLE).ok()?;
    let address = std::env::var(ADDRESS_VARIABLE).ok()?;
    let store = stores.iter().find(|store| store.name() == name)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .ok()?;
    let worked = runtime.block_on(async {
        let broker = store.connect(&address).await?;
        tokio::select! {
            () = work(broker) => {}
            () = starter_ended() => {}
        }
        Ok::<_, brigade::Error>(())
    });
    // What still blocks a thread is not waited for.
    runtime.shutdown_background();
    Some(match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("connect to {name}: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Waits for the end of standard input, which ends with the process that started this one.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing waits for this thread at the end"
)]
async fn starter_ended() {
    let reading = tokio::task::spawn_blocking(|| io::stdin().read(&mut [0]));
    reading.await.ok();
}
