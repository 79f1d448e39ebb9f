//! RabbitMQ servers for tests: on ports of the loopback, with everything they write in a directory
//! of their own, and gone with the test.
//!
//! A server takes some seconds of two cores to start, so tests share one where they can
//! ([`RabbitMq::shared`]), each in a namespace of its own ([`namespace`]), however many processes
//! they are; one that is killed, stopped or set up in another way is a test's own
//! ([`RabbitMq::start`]).
//!
//! Each server is the child of a small shell, its guardian, and dies with it (parent-death signal).
//! The guardian of a test's own server waits for the end of its standard input, which is the end of
//! the test's process, whichever way that ends. That of the shared one waits until no process has
//! its lock on the file `users` any more: the kernel takes locks back, so the count of users ends
//! at zero in any case.

pub mod raw;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use crate::facts;
use crate::places::free_port;

/// Far beyond what a start takes.
const START_BOUND: Duration = Duration::from_secs(90);
/// Where the scripts are that start the server: the ones in `/usr/sbin` want to be another user.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// Arguments: directory, ports of clients, of the distribution and of the port mapper, `own` or
/// `shared`.
const GUARDIAN: &str = r#"
cd "$1" || exit 1
setpriv --pdeathsig KILL epmd -port "$4" </dev/null >/dev/null 2>&1 &
epmd=$!
setpriv --pdeathsig KILL "$SCRIPTS/rabbitmq-server" </dev/null >start 2>&1 &
beam=$!
echo $beam >pid.new && mv pid.new pid
if [ "$5" = own ]; then
  read -r end
else
  # A while longer: the next test comes soon. Whoever comes holds ../lock while it looks at ../current, and then has its lock on users.
  while flock -x users true; sleep 3
    ! flock -x ../lock flock -n -x users sh -c 'if [ "$(head -n 1 ../current)" = "$0" ]; then rm ../current; fi' "$1"
  do :; done
  end=remove
fi
kill -9 $beam $epmd
wait
if [ "$end" != keep ]; then rm -rf "$1"; fi
"#;

/// A running server.
#[derive(Debug)]
pub struct RabbitMq {
    place: Place,
    /// None of a server that was killed, and of the shared one.
    guardian: Option<Child>,
    is_shared: bool,
}

/// Where a server is.
#[derive(Clone, Debug)]
struct Place {
    directory: PathBuf,
    /// Of clients, of the distribution, of the port mapper.
    ports: [u16; 3],
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

    /// Stops it: SIGSTOP.
    pub fn stop(&mut self) {
        facts::signal(self.pid(), Signal::STOP);
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

impl Place {
    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.directory.join("pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn log(&self) -> String {
        let logs = fs::read_dir(self.directory.join("log"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let files = [self.directory.join("start")].into_iter().chain(logs);
        files
            .filter_map(|file| fs::read(file).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    /// What the server and its tools have to know.
    fn environment(&self, command: &mut Command) {
        let [client, distribution, mapper] = self.ports;
        let file = |name: &str| self.directory.join(name);
        command
            .env_remove("NOTIFY_SOCKET")
            // One that is ended while it starts leaves no dump where the test was started.
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            .env("SCRIPTS", SCRIPTS)
            .env("HOME", &self.directory)
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("brigade-{client}@localhost"))
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", file("data"))
            .env("RABBITMQ_LOG_BASE", file("log"))
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins"))
            .env("RABBITMQ_PID_FILE", file("own-pid"))
            // The script becomes the server instead of waiting for it; its shell is kept from
            // reading by the arguments.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-noinput -start_epmd false",
            )
            // Nor do its tools start a port mapper that nobody would end.
            .env("RABBITMQ_CTL_ERL_ARGS", "-start_epmd false")
            // As by default, but its threads are not bound to cores: other servers and the tests
            // are there as well.
            .env(
                "RABBITMQ_SERVER_ERL_ARGS",
                "+P 1048576 +t 5000000 +sbwt none +sbwtdcpu none +sbwtdio none",
            );
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the kit starts servers and their tools"
    )]
    fn spawn(&self, own: bool) -> io::Result<Child> {
        let mut command = Command::new("sh");
        self.environment(&mut command);
        command
            .args(["-c", GUARDIAN, "guardian"])
            .arg(&self.directory)
            .args(self.ports.map(|port| port.to_string()));
        command.arg(if own { "own" } else { "shared" });
        // What ends the test's process group must not end the guardian, which would leave the
        // directory.
        command
            .process_group(0)
            .stdin(if own { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn()
    }

    fn answers(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports[0]))?;
            stream.set_read_timeout(Some(START_BOUND))?;
            stream.write_all(b"AMQP\x00\x00\x09\x01")?;
            let mut first = [0];
            stream.read_exact(&mut first)?;
            // A frame with a method: `connection.start`.
            Ok::<_, io::Error>(first == [1])
        };
        ask().unwrap_or(false)
    }

    fn wait_until_it_answers(&self) -> io::Result<()> {
        let mut ended = false;
        let answered = facts::wait_until(START_BOUND, || {
            ended = self.pid().is_some_and(|pid| !facts::is_alive(pid));
            ended || self.answers()
        });
        if answered.is_some() && !ended {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "the RabbitMQ server does not answer: {}",
                self.log()
            )))
        }
    }
}

fn prepare_and_start(
    directory: &Path,
    plugins: &[&str],
    lines: &[&str],
    own: bool,
) -> io::Result<(Place, Child)> {
    if !Path::new(SCRIPTS).join("rabbitmq-server").exists() {
        return Err(io::Error::other(format!(
            "there is no rabbitmq-server in {SCRIPTS}: install Debian's package of that name"
        )));
    }
    let place = Place {
        directory: directory.to_owned(),
        ports: [free_port(), free_port(), free_port()],
    };
    fs::write(
        directory.join("plugins"),
        format!("[{}].", plugins.join(",")),
    )?;
    // What a crash interrupted of the handing on of expired messages is tried again after this
    // time: three minutes by default.
    fs::write(
        directory.join("advanced.config"),
        "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 2000}]}].",
    )?;
    File::create(directory.join("users"))?;
    let mut config = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\ndisk_free_limit.absolute = 1MB\n",
        place.ports[0]
    );
    lines.iter().for_each(|line| config.extend([line, "\n"]));
    fs::write(directory.join("rabbitmq.conf"), config)?;
    let mut guardian = place.spawn(own)?;
    if let Err(error) = place.wait_until_it_answers() {
        guardian.kill().ok();
        guardian.wait().ok();
        return Err(error);
    }
    Ok((place, guardian))
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
    let place = Place {
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
