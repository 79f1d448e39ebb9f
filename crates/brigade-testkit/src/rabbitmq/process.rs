//! The process of one RabbitMQ server: its directory, its environment, its start.
//!
//! Each server is the child of a small shell, its guardian, and dies with it (parent-death signal).
//! The guardian of a test's own server waits for the end of its standard input, which is the end of
//! the test's process, whichever way that ends. That of the shared one waits until no process has
//! its lock on the file `users` any more: the kernel takes locks back, so the count of users ends
//! at zero in any case.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::facts;
use crate::places::free_port;

/// Far beyond what a start takes.
const START_BOUND: Duration = Duration::from_secs(90);
/// Where the scripts are that start the server: the ones in `/usr/sbin` want to be another user.
pub(super) const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

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
  # A while longer: the next test comes soon. A process that comes holds ../lock while it looks at ../current, and then has its lock on users.
  while flock -x users true; sleep 3
    ! flock -x ../lock flock -n -x users sh -c 'if [ "$(head -n 1 ../current)" = "$0" ]; then rm ../current; fi' "$1"
  do :; done
  end=remove
fi
kill -9 $beam $epmd
wait
if [ "$end" != keep ]; then rm -rf "$1"; fi
"#;

/// Where a server is.
#[derive(Clone, Debug)]
pub(super) struct ServerPlace {
    pub(super) directory: PathBuf,
    /// Of clients, of the distribution, of the port mapper.
    pub(super) ports: [u16; 3],
}

impl ServerPlace {
    pub(super) fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.directory.join("pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    pub(super) fn log(&self) -> String {
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
    pub(super) fn environment(&self, command: &mut Command) {
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
            // Nor do its tools start a port mapper, which would never end.
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
    pub(super) fn spawn(&self, own: bool) -> io::Result<Child> {
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

    pub(super) fn answers(&self) -> bool {
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

    pub(super) fn wait_until_it_answers(&self) -> io::Result<()> {
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

pub(super) fn prepare_and_start(
    directory: &Path,
    plugins: &[&str],
    lines: &[&str],
    own: bool,
) -> io::Result<(ServerPlace, Child)> {
    if !Path::new(SCRIPTS).join("rabbitmq-server").exists() {
        return Err(io::Error::other(format!(
            "there is no rabbitmq-server in {SCRIPTS}: install Debian's package of that name"
        )));
    }
    let place = ServerPlace {
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
