//! A gate that a task in another process knocks at and waits behind: the test sees that it has
//! begun and says when it may go on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;

pub(crate) struct Gate {
    listener: UnixListener,
    path: String,
    _directory: TempDir,
}

/// A task that waits at the gate; dropping this lets it through.
pub(crate) struct Arrival {
    pub(crate) id: u32,
    stream: tokio::net::UnixStream,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory
            .path()
            .join("gate")
            .to_str()
            .expect("a path that is text")
            .to_owned();
        Self {
            listener: UnixListener::bind(&path).expect("a socket"),
            path,
            _directory: directory,
        }
    }

    pub(crate) fn path(&self) -> String {
        self.path.clone()
    }

    pub(crate) async fn arrival(&self) -> Arrival {
        let (mut stream, _) = self.listener.accept().await.expect("a visitor");
        let id = stream.read_u32_le().await.expect("its id");
        Arrival { id, stream }
    }

    /// That many arrivals, in order.
    pub(crate) async fn arrivals(&self, count: usize) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for _ in 0..count {
            arrivals.push(self.arrival().await);
        }
        arrivals
    }
}

impl Arrival {
    /// Waits until the task has been killed.
    pub(crate) async fn gone(mut self) {
        // Its end of the socket closes, one way or the other.
        self.stream.read_to_end(&mut Vec::new()).await.ok();
    }
}

/// The task's side: knocks and waits to be let through.
pub(crate) fn pass(path: &str, id: u32) {
    let mut stream = UnixStream::connect(path).expect("the gate is there");
    stream
        .write_all(&id.to_le_bytes())
        .expect("the gate listens");
    // A gate that was reset by the end of its test lets through too.
    stream.read_to_end(&mut Vec::new()).ok();
}
