//! A Redis server of a test's own: on a socket in a directory of its own, without a port, and gone
//! with the test.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::facts;

/// Far beyond what a start takes.
const START_BOUND: Duration = Duration::from_secs(20);

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    options: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
    directory: tempfile::TempDir,
}

impl Redis {
    /// Starts a server that keeps nothing on disk, with further options as in its configuration
    /// file (`--appendonly yes`).
    ///
    /// # Errors
    ///
    /// What the operating system says, above all that there is no `redis-server` or
    /// `valkey-server`.
    pub fn start(options: &[&str]) -> io::Result<Self> {
        Self::start_in(options, Vec::new())
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_in(
        options: &[&str],
        environment: Vec<(&'static str, OsString)>,
    ) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("brigade-redis-")
            .tempdir()?;
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(directory.path(), &options, &environment)?;
        let server = Self {
            child,
            options,
            environment,
            directory,
        };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, signal).ok();
        }
    }

    /// Kills it with SIGKILL and starts it again on what it had written.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.start_again()
    }

    /// Kills it with SIGKILL; returns when it is gone.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        fs::remove_file(self.socket()).ok();
        Ok(())
    }

    /// Starts it, after it was killed, on what it had written.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.child = spawn(self.directory.path(), &self.options, &self.environment)?;
        self.wait_until_it_answers()
    }

    /// Sends one command in the inline form of the protocol; what it answered.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(START_BOUND))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut buffer = vec![0; 64 << 10];
        let count = stream.read(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    }

    /// The same with a password; the answer to that is in front.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn ask_as(&self, password: &str, command: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(START_BOUND))?;
        stream.write_all(format!("AUTH {password}\r\n{command}\r\nQUIT\r\n").as_bytes())?;
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers)?;
        Ok(String::from_utf8_lossy(&answers).into_owned())
    }

    fn wait_until_it_answers(&self) -> io::Result<()> {
        let answers = || {
            self.ask("PING")
                .is_ok_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
        };
        let answered = facts::wait_until(START_BOUND, answers);
        answered.map(drop).ok_or_else(|| {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            io::Error::other(format!("the Redis server does not answer: {log}"))
        })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be stopped, or gone.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[expect(clippy::disallowed_methods, reason = "the kit starts servers")]
fn spawn(
    directory: &Path,
    options: &[String],
    environment: &[(&'static str, OsString)],
) -> io::Result<Child> {
    let start = |program: &str| {
        Command::new(program)
            .current_dir(directory)
            .args([
                "--port",
                "0",
                "--unixsocket",
                "socket",
                "--save",
                "",
                "--appendonly",
                "no",
                "--logfile",
                "log",
                "--daemonize",
                "no",
            ])
            .args(options)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    start("redis-server").or_else(|_| start("valkey-server"))
}
