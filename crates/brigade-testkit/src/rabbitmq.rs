//! RabbitMQ servers for tests: on ports of the loopback, with everything they write in a directory
//! of their own, and gone with the test.
//!
//! A server takes some seconds of two cores to start, so tests share one where they can
//! ([`RabbitMq::shared`]), each in a namespace of its own ([`namespace`]), however many processes
//! they are; one that is killed, stopped or set up in another way is a test's own
//! ([`RabbitMq::start`]).

mod process;
pub mod raw;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use self::process::{SCRIPTS, ServerPlace, prepare_and_start};
use crate::facts;

/// A running server.
#[derive(Debug)]
pub struct RabbitMq {
    place: ServerPlace,
    /// None of a server that was killed, and of the shared one.
    guardian: Option<Child>,
    is_shared: bool,
}

/// A namespace that no other test has.
pub fn namespace() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "t{}-{}-{}",
        std::process::id(),
        now.subsec_nanos(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

impl RabbitMq {
    /// The server that all tests share that do it no harm. It is there for as long as one of their
    /// processes lives, and some seconds longer.
    ///
    /// # Errors
    ///
    /// As [`start`](RabbitMq::start).
    pub fn shared() -> io::Result<&'static Self> {
        static SHARED: OnceLock<Result<(RabbitMq, File), String>> = OnceLock::new();
        match SHARED.get_or_init(|| share().map_err(|error| error.to_string())) {
            Ok((server, _)) => Ok(server),
            Err(error) => Err(io::Error::other(error.clone())),
        }
    }

    /// Starts a server, with further lines for its configuration file. Dropping it kills it.
    ///
    /// # Errors
    ///
    /// What the operating system says, above all that there is no `rabbitmq-server`.
    pub fn start(lines: &[&str]) -> io::Result<Self> {
        Self::start_with(&[], lines)
    }

    /// The same with plugins.
    ///
    /// # Errors
    ///
    /// As [`start`](RabbitMq::start).
    pub fn start_with(plugins: &[&str], lines: &[&str]) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("brigade-rabbitmq-")
            .tempdir()?;
        let (place, guardian) = prepare_and_start(directory.path(), plugins, lines, true)?;
        // From here on the guardian removes it, also if this process is killed.
        let _path = directory.keep();
        Ok(Self {
            place,
            guardian: Some(guardian),
            is_shared: false,
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.place.ports[0]
    }

    /// Its URL, of the default user and vhost.
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port())
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.place.pid().unwrap_or(0)
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        self.place.log()
    }

    /// Runs `rabbitmqctl` with it; what that wrote.
    ///
    /// # Errors
    ///
    /// What it wrote, if it failed.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kit starts servers and their tools"
    )]
    pub fn ctl(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = Command::new(format!("{SCRIPTS}/rabbitmqctl"));
        self.place.environment(&mut command);
        let output = command
            .arg("--quiet")
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(io::Error::other(format!(
            "rabbitmqctl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    /// Stops it: SIGSTOP. Returns when none of its threads runs any more.
    pub fn stop(&mut self) {
        let pid = self.pid();
        facts::signal(pid, Signal::STOP);
        facts::wait_until(Duration::from_secs(20), || facts::is_stopped(pid));
    }

    /// Has it go on: SIGCONT.
    pub fn cont(&mut self) {
        facts::signal(self.pid(), Signal::CONT);
    }

    /// Kills it with SIGKILL; returns when it is gone.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn kill(&mut self) -> io::Result<()> {
        facts::signal(self.pid(), Signal::KILL);
        self.end("keep\n")
    }

    /// Starts it, after it was killed, on what it had written and on the same ports.
    ///
    /// # Errors
    ///
    /// As [`start`](RabbitMq::start).
    pub fn start_again(&mut self) -> io::Result<()> {
        fs::remove_file(self.place.directory.join("pid")).ok();
        let mut guardian = self.place.spawn(true)?;
        let started = self.place.wait_until_it_answers();
        if started.is_err() {
            guardian.kill().ok();
            guardian.wait().ok();
        } else {
            self.guardian = Some(guardian);
        }
        started
    }

    /// [`kill`](RabbitMq::kill) and [`start_again`](RabbitMq::start_again).
    ///
    /// # Errors
    ///
    /// As those.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.start_again()
    }

    /// Has the guardian end, and waits for that.
    fn end(&mut self, word: &str) -> io::Result<()> {
        let Some(mut guardian) = self.guardian.take() else {
            return Ok(());
        };
        if let Some(mut input) = guardian.stdin.take() {
            // It may be gone: then so is the server.
            input.write_all(word.as_bytes()).ok();
        }
        guardian.wait().map(drop)
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.end("").ok();
        if !self.is_shared {
            // It is left there by `kill`.
            fs::remove_dir_all(&self.place.directory).ok();
        }
    }
}

/// The shared server, and our lock on it.
fn share() -> io::Result<(RabbitMq, File)> {
    let base = std::env::temp_dir().join(format!(
        "brigade-rabbitmq-{}",
        rustix::process::geteuid().as_raw()
    ));
    fs::create_dir_all(&base)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(base.join("lock"))?;
    // Until the end of this function: who comes meanwhile waits for the start.
    flock(&lock, FlockOperation::LockExclusive)?;
    if let Some(found) = find(&base.join("current")) {
        return Ok(found);
    }
    let directory = tempfile::Builder::new()
        .prefix("server-")
        .tempdir_in(&base)?;
    let users = File::create(directory.path().join("users"))?;
    flock(&users, FlockOperation::LockShared)?;
    let (place, guardian) = prepare_and_start(directory.path(), &[], &[], false)?;
    let [client, distribution, mapper] = place.ports;
    fs::write(
        base.join("current"),
        format!(
            "{}\n{client}\n{distribution}\n{mapper}\n",
            place.directory.display()
        ),
    )?;
    let _path = directory.keep();
    // It outlives this process, on purpose.
    drop(guardian);
    Ok((
        RabbitMq {
            place,
            guardian: None,
            is_shared: true,
        },
        users,
    ))
}

/// The shared server that is there.
fn find(current: &Path) -> Option<(RabbitMq, File)> {
    let text = fs::read_to_string(current).ok()?;
    let mut lines = text.lines();
    let directory = PathBuf::from(lines.next()?);
    let mut port = || lines.next()?.parse().ok();
    let place = ServerPlace {
        directory,
        ports: [port()?, port()?, port()?],
    };
    let users = File::open(place.directory.join("users")).ok()?;
    flock(&users, FlockOperation::NonBlockingLockShared).ok()?;
    place.answers().then_some((
        RabbitMq {
            place,
            guardian: None,
            is_shared: true,
        },
        users,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_survives_a_kill_and_leaves_nothing() {
        let mut server = RabbitMq::start(&[]).unwrap();
        server.ctl(&["add_vhost", "kept"]).unwrap();
        let (pid, directory) = (server.pid(), server.place.directory.clone());
        server.kill().unwrap();
        assert!(!facts::is_alive(pid) && !server.place.answers());
        server.start_again().unwrap();
        assert!(server.ctl(&["list_vhosts"]).unwrap().contains("kept"));
        let left = |directory: &Path| facts::marked("HOME", directory.to_str().unwrap());
        assert!(!left(&directory).is_empty());
        drop(server);
        assert!(
            facts::wait_until(Duration::from_secs(10), || left(&directory).is_empty()).is_some(),
            "{:?}",
            left(&directory)
        );
        assert!(!directory.exists());
    }

    #[test]
    fn the_shared_server_is_one() {
        let first = RabbitMq::shared().unwrap();
        let (again, _users) = share().unwrap();
        assert_eq!((first.port(), first.pid()), (again.port(), again.pid()));
    }
}
