//! `brigade serve` as a process of its own, on a free port.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::facts;

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct HttpServer {
    child: Child,
    lines: Vec<String>,
    directory: tempfile::TempDir,
}

impl HttpServer {
    /// Starts the binary with these arguments on a free port of loopback, for the broker of this
    /// URL, and waits until it listens. Its files (a token that it makes) are in a directory of its
    /// own, as is what it writes to standard error.
    ///
    /// # Errors
    ///
    /// What the operating system says, or what the server wrote before it ended.
    #[expect(clippy::disallowed_methods, reason = "starts the binary under test")]
    pub fn start<A: AsRef<OsStr>>(
        binary: &str,
        url: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("brigade-serve-")
            .tempdir()?;
        let log = File::create(directory.path().join("log"))?;
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env("BRIGADE_URL", url)
            .env("XDG_DATA_HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut lines = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                lines.push(line?);
                if lines
                    .last()
                    .is_some_and(|line| line.starts_with("listening on "))
                {
                    break;
                }
            }
        }
        let mut server = Self {
            child,
            lines,
            directory,
        };
        if server.base().is_none() {
            let status = server.child.wait()?;
            let text = format!("{status}: {}", server.log());
            return Err(io::Error::other(text));
        }
        Ok(server)
    }

    /// Its URL, without a slash at the end: `http://127.0.0.1:41234`.
    pub fn base(&self) -> Option<&str> {
        self.lines
            .iter()
            .find_map(|line| line.strip_prefix("listening on "))
    }

    /// The file of the token that it made, if it did.
    pub fn token_file(&self) -> Option<PathBuf> {
        let path = self
            .lines
            .iter()
            .find_map(|line| line.strip_prefix("token in "));
        path.map(PathBuf::from)
    }

    /// What it wrote to standard error: the access log above all.
    pub fn log(&self) -> String {
        let path = self.directory.path().join("log");
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> bool {
        facts::signal(self.child.id(), signal)
    }

    /// Waits, bounded, until it has ended.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let mut status = None;
        facts::wait_until(bound, || {
            status = self.child.try_wait().unwrap_or(None);
            status.is_some()
        });
        status
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
