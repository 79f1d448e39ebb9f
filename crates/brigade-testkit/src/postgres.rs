//! PostgreSQL servers for tests: on a free port of the loopback and a socket, with everything they
//! write in a directory of their own, and gone with the test, however that ends.
//!
//! Tests that do their server no harm share one ([`Postgres::shared`]), each with a database of its
//! own ([`Postgres::fresh_database`]), however many processes they are; one that is killed, stopped
//! or set up in another way is a test's own ([`Postgres::start`]). `initdb` runs once for a version
//! of the server and a build directory; each start copies what it made, which takes some
//! milliseconds. The server runs as the user who runs the tests, or as Debian's user `postgres`
//! where that is root, because PostgreSQL refuses to run as root. Connections are trusted unless
//! [`Setup::access`] says otherwise, and a commit does not wait for the disk (`fsync = off`) unless
//! [`Setup::settings`] says otherwise: what a killed server had written is there either way.
//!
//! `template` makes and copies the data directory, `process` owns the server's process,
//! [`PgBouncer`] is the pooler in front of a server.

mod held_session;
mod pgbouncer;
mod process;
mod template;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

pub use self::held_session::HeldSession;
pub use self::pgbouncer::PgBouncer;
use self::process::{Kind, ServerProcess};
use self::template::{Programs, append};
use crate::facts;
use crate::places::free_port;

/// How often a start is tried on another port: another program may take a port that was free.
const PORTS_TRIED: usize = 5;
/// Longer statements are no argument of a program: the kernel allows 128 KiB.
const ARGUMENT_BYTES_MAX: usize = 100_000;
/// Far beyond what an answer takes.
const ANSWER_BOUND: Duration = Duration::from_secs(60);

/// How a server differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Setup<'a> {
    /// Lines for `postgresql.conf`; they win over those of the kit.
    pub settings: &'a [&'a str],
    /// Lines for `pg_hba.conf`, in front of those that trust every connection.
    pub access: &'a [&'a str],
    /// Files that are copied into the data directory under their names, readable by the server
    /// alone: a certificate and its key.
    pub files: &'a [PathBuf],
}

/// A running server. Dropping it ends it and removes all that it wrote.
#[derive(Debug)]
pub struct Postgres {
    programs: Programs,
    /// None of the shared one, which other processes use as well.
    process: Option<ServerProcess>,
    directory: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts a server with further lines for its `postgresql.conf`.
    ///
    /// # Errors
    ///
    /// What the operating system or the server said, above all that there is no `initdb`: install
    /// Debian's package `postgresql`.
    pub fn start(settings: &[&str]) -> io::Result<Self> {
        Self::start_with(&Setup {
            settings,
            ..Setup::default()
        })
    }

    /// The same with rules for access, and files.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(setup: &Setup<'_>) -> io::Result<Self> {
        let programs = Programs::find()?;
        Self::start_in(
            &std::env::temp_dir(),
            programs,
            Kind::Own,
            |programs, directory| {
                programs.copy_template(directory)?;
                let data = directory.join("data");
                let mut access = setup.access.join("\n");
                access.push('\n');
                access.push_str(&fs::read_to_string(data.join("pg_hba.conf"))?);
                programs.write(&data.join("pg_hba.conf"), access.as_bytes())?;
                for file in setup.files {
                    let name = file.file_name().unwrap_or_default();
                    programs.write(&data.join(name), &fs::read(file)?)?;
                }
                append(
                    &data.join("postgresql.conf"),
                    &format!("\n{}\n", setup.settings.join("\n")),
                )
            },
        )
    }

    /// Starts a standby of this server that follows it by streaming. It answers what only reads.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_standby(&self) -> io::Result<Self> {
        Self::start_in(
            &std::env::temp_dir(),
            self.programs.clone(),
            Kind::Own,
            |programs, directory| {
                let source = format!(
                    "host={} port={} user=postgres application_name=standby",
                    self.directory.display(),
                    self.port
                );
                let data = directory.join("data");
                programs.run(
                    "pg_basebackup",
                    &[
                        "--dbname",
                        &source,
                        "--pgdata",
                        &data.display().to_string(),
                        "--checkpoint=fast",
                        "--wal-method=stream",
                        "--write-recovery-conf",
                        "--no-sync",
                    ],
                )?;
                // What it copied are this server's settings, and the later lines win.
                append(&data.join("postgresql.conf"), "hot_standby = on\n")
            },
        )
    }

    fn own_process(&mut self) -> io::Result<&mut ServerProcess> {
        let text = "the shared server serves other tests as well: start one of your own";
        self.process.as_mut().ok_or_else(|| io::Error::other(text))
    }

    /// Starts one in a directory within `base`, on a free port.
    fn start_in(
        base: &Path,
        programs: Programs,
        kind: Kind,
        mut prepare: impl FnMut(&Programs, &Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut tried = 0;
        loop {
            tried += 1;
            let directory = programs.directory(base, "brigade-postgres-")?;
            let port = free_port();
            prepare(&programs, directory.path())?;
            append(
                &directory.path().join("data/postgresql.conf"),
                &format!(
                    "\nport = {port}\nunix_socket_directories = '{}'\n",
                    directory.path().display()
                ),
            )?;
            match ServerProcess::start(&programs, directory.path(), kind) {
                Ok(process) => {
                    return Ok(Self {
                        programs,
                        process: (kind == Kind::Own).then_some(process),
                        // From here on its guardian removes it, also if this process is killed.
                        directory: directory.keep(),
                        port,
                    });
                }
                Err(error) if tried == PORTS_TRIED || !is_port_taken(&error) => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its socket.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// The URL of its first database by TCP, as its superuser.
    pub fn url(&self) -> String {
        self.url_of("postgres", "postgres")
    }

    /// The URL of a database by TCP, as this user.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of its first database by its socket, as its superuser.
    pub fn socket_url(&self) -> String {
        format!(
            "postgres://postgres@/postgres?host={}&port={}",
            self.directory.display(),
            self.port
        )
    }

    /// The number of its first process, the postmaster; zero if it was shut down.
    pub fn pid(&self) -> u32 {
        let file = fs::read_to_string(self.directory.join("data/postmaster.pid"));
        let pid = file.unwrap_or_default();
        pid.lines()
            .next()
            .and_then(|pid| pid.parse().ok())
            .unwrap_or(0)
    }

    /// The major version, for example 15.
    pub fn version(&self) -> u32 {
        self.programs.major
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("log")).unwrap_or_default())
            .into_owned()
    }

    /// Runs SQL in the first database as the superuser; the rows it gave, a line each, with `|`
    /// between columns.
    ///
    /// # Errors
    ///
    /// What `psql` wrote.
    pub fn sql(&self, statements: &str) -> io::Result<String> {
        self.sql_in("postgres", "postgres", statements)
    }

    /// The same in a database, as a user.
    ///
    /// # Errors
    ///
    /// As [`sql`](Self::sql).
    pub fn sql_in(&self, user: &str, database: &str, statements: &str) -> io::Result<String> {
        let target = format!(
            "host={} port={} user={user} dbname={database} connect_timeout={}",
            self.directory.display(),
            self.port,
            ANSWER_BOUND.as_secs()
        );
        let options = [
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            "--dbname",
            &target,
        ];
        let text = if statements.len() <= ARGUMENT_BYTES_MAX {
            let arguments = [&options[..], &["--command", statements]].concat();
            self.programs.run("psql", &arguments)?
        } else {
            let arguments = [&options[..], &["--file=-"]].concat();
            self.programs
                .run_with_input("psql", &arguments, statements)?
        };
        Ok(text.trim_end().to_owned())
    }

    /// A session of the superuser that runs this SQL and stays open, with its transaction.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn hold(&self, statements: &str) -> io::Result<HeldSession> {
        let target = format!(
            "host={} port={} user=postgres dbname=postgres",
            self.directory.display(),
            self.port
        );
        HeldSession::start(&self.programs, &target, statements)
    }

    /// Makes a further database; its URL by TCP, as the superuser.
    ///
    /// # Errors
    ///
    /// As [`sql`](Self::sql).
    pub fn create_database(&self, name: &str) -> io::Result<String> {
        self.sql(&format!("create database \"{name}\""))?;
        Ok(self.url_of("postgres", name))
    }

    /// Changes a setting that needs no restart, for connections that are open as well.
    ///
    /// # Errors
    ///
    /// As [`sql`](Self::sql).
    pub fn set(&self, name: &str, value: &str) -> io::Result<()> {
        // Two statements of one call would be one transaction, which `alter system` refuses.
        self.sql(&format!("alter system set {name} = '{value}'"))?;
        self.sql("select pg_reload_conf()").map(drop)
    }

    /// Ends all connections of clients but its own with `pg_terminate_backend`; how many there
    /// were.
    ///
    /// # Errors
    ///
    /// As [`sql`](Self::sql).
    pub fn terminate_connections(&self) -> io::Result<usize> {
        let count = self.sql(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                where backend_type = 'client backend' and pid <> pg_backend_pid()",
        )?;
        count.parse().map_err(io::Error::other)
    }

    /// Starts PgBouncer in front of this server, in a mode (`transaction`, `session` or
    /// `statement`), with further lines for its configuration. It logs in as the superuser for any
    /// client.
    ///
    /// # Errors
    ///
    /// What the operating system says, above all that there is no `pgbouncer`: install Debian's
    /// package of that name.
    pub fn start_pooler(&self, mode: &str, lines: &[&str]) -> io::Result<PgBouncer> {
        PgBouncer::start(&self.programs, (&self.directory, self.port), mode, lines)
    }

    /// Makes a standby the primary; returns when it takes writes.
    ///
    /// # Errors
    ///
    /// As [`sql`](Self::sql).
    pub fn promote(&self) -> io::Result<()> {
        self.sql("select pg_promote(true)").map(drop)
    }

    /// Stops all of its processes: SIGSTOP. Returns when none of them runs any more.
    pub fn stop(&mut self) {
        if let Some(process) = &self.process {
            process.stop();
        }
    }

    /// Has them go on: SIGCONT.
    pub fn cont(&mut self) {
        if let Some(process) = &self.process {
            process.cont();
        }
    }

    /// Kills all of its processes with SIGKILL; returns when they are gone.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn kill(&mut self) -> io::Result<()> {
        self.own_process()?.kill()
    }

    /// Ends it as its service does (`pg_ctl stop -m fast`): it says goodbye to its clients, and
    /// nothing has to be recovered at the next start.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn shut_down(&mut self) -> io::Result<()> {
        self.own_process()?.end(Signal::INT)
    }

    /// Starts it, after it was killed or shut down, on what it had written and on the same port.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_again(&mut self) -> io::Result<()> {
        self.own_process()?.start_again()
    }

    /// [`kill`](Self::kill) and [`start_again`](Self::start_again).
    ///
    /// # Errors
    ///
    /// As those.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.start_again()
    }
}

/// What all users of the shared server need.
const SHARED_SETTINGS: &[&str] = &["max_connections = 300"];

impl Postgres {
    /// The server that all tests share that do it no harm. It is there for as long as one of their
    /// processes lives, and some seconds longer.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn shared() -> io::Result<&'static Self> {
        static SHARED: OnceLock<Result<(Postgres, File), String>> = OnceLock::new();
        match SHARED.get_or_init(|| share().map_err(|error| error.to_string())) {
            Ok((server, _)) => Ok(server),
            Err(error) => Err(io::Error::other(error.clone())),
        }
    }

    /// Makes a database that no other test has; its URL by TCP, as the superuser.
    ///
    /// # Errors
    ///
    /// As [`sql`](Self::sql).
    pub fn fresh_database(&self) -> io::Result<String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.unwrap_or_default().subsec_nanos();
        self.create_database(&format!("t{}_{nanos}_{number}", std::process::id()))
    }
}

/// The shared server, and our lock on it.
fn share() -> io::Result<(Postgres, File)> {
    let programs = Programs::find()?;
    let base = std::env::temp_dir().join(format!(
        "brigade-postgres-{}",
        rustix::process::geteuid().as_raw()
    ));
    fs::create_dir_all(&base)?;
    programs.give(&base)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(base.join("lock"))?;
    // Until the end of this function: who comes meanwhile waits for the start.
    flock(&lock, FlockOperation::LockExclusive)?;
    let current = base.join("current");
    if let Some(found) = find(&programs, &current) {
        return Ok(found);
    }
    let mut users = None;
    let server = Postgres::start_in(&base, programs, Kind::Shared, |programs, directory| {
        let file = File::create(directory.join("users"))?;
        flock(&file, FlockOperation::LockShared)?;
        users = Some(file);
        programs.copy_template(directory)?;
        append(
            &directory.join("data/postgresql.conf"),
            &SHARED_SETTINGS.join("\n"),
        )
    })?;
    fs::write(
        current,
        format!("{}\n{}\n", server.directory.display(), server.port),
    )?;
    let users = users.ok_or_else(|| io::Error::other("a server without users"))?;
    Ok((server, users))
}

/// The shared server that is there.
fn find(programs: &Programs, current: &Path) -> Option<(Postgres, File)> {
    let text = fs::read_to_string(current).ok()?;
    let mut lines = text.lines();
    let directory = PathBuf::from(lines.next()?);
    let port = lines.next()?.parse().ok()?;
    let users = File::open(directory.join("users")).ok()?;
    flock(&users, FlockOperation::NonBlockingLockShared).ok()?;
    let server = Postgres {
        programs: programs.clone(),
        process: None,
        directory,
        port,
    };
    facts::is_alive(server.pid()).then_some((server, users))
}

fn is_port_taken(error: &io::Error) -> bool {
    error.to_string().contains("could not bind")
}

#[cfg(test)]
mod tests;
