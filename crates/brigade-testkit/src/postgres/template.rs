//! The programs of PostgreSQL, the user who runs them, and the data directory that is copied for
//! each server.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{FlockOperation, Gid, Uid, chown, flock};

/// What every server of the kit has in its `postgresql.conf`.
///
/// A killed server leaves nothing outside of its directory: shared memory of queries is files
/// there.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = off
dynamic_shared_memory_type = mmap
huge_pages = off
log_line_prefix = '%m [%p] %q%u@%d %a '
";

/// Where the programs of one version are, and as whom they run.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    directory: PathBuf,
    /// For example `15.14`.
    version: String,
    pub(super) major: u32,
    /// None: as the user of the test.
    user: Option<(u32, u32)>,
}

impl Programs {
    /// Finds them in PATH, or the newest where Debian has them.
    pub(super) fn find() -> io::Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path)
            .filter_map(|directory| fs::canonicalize(directory.join("initdb")).ok())
            .filter_map(|initdb| Some(initdb.parent()?.to_owned()))
            .next();
        let directory = in_path.or_else(newest_of_debian).ok_or_else(|| {
            let text = "there is no initdb, neither in PATH nor in /usr/lib/postgresql/*/bin: \
                install Debian's package postgresql";
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        let mut programs = Self {
            directory,
            version: String::new(),
            major: 0,
            user: user()?,
        };
        let text = programs.run("postgres", &["--version"])?;
        // `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`
        text.split_whitespace()
            .nth(2)
            .unwrap_or_default()
            .clone_into(&mut programs.version);
        let major = programs.version.split(['.', 'b', 'r']).next();
        programs.major = major.and_then(|major| major.parse().ok()).unwrap_or(0);
        Ok(programs)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A command that runs as the server's user, with no environment that libpq would read.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kit starts servers and tools"
    )]
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // Messages are looked for in English; the working directory may be closed to the user.
        command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        command
    }

    /// Runs one of the programs to its end; what it wrote.
    pub(super) fn run(&self, name: &str, arguments: &[&str]) -> io::Result<String> {
        let output = self
            .command(self.program(name))
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        Self::output_of(name, arguments, &output)
    }

    /// The same for a program that reads this, and writes little before its end.
    pub(super) fn run_with_input(
        &self,
        name: &str,
        arguments: &[&str],
        input: &str,
    ) -> io::Result<String> {
        let mut program = self
            .command(self.program(name))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = program.stdin.take() {
            // It may end at an error, without reading all of it.
            stdin.write_all(input.as_bytes()).ok();
        }
        Self::output_of(name, arguments, &program.wait_with_output()?)
    }

    fn output_of(name: &str, arguments: &[&str], output: &Output) -> io::Result<String> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(io::Error::other(format!(
            "{name} {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    /// A directory of the server's user.
    pub(super) fn directory(&self, base: &Path, prefix: &str) -> io::Result<tempfile::TempDir> {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(base)?;
        self.give(directory.path())?;
        Ok(directory)
    }

    /// Writes a file that only the server's user can read.
    pub(super) fn write(&self, file: &Path, content: &[u8]) -> io::Result<()> {
        fs::write(file, content)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
        self.give(file)
    }

    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        match self.user {
            Some((user, group)) => Ok(chown(
                path,
                Some(Uid::from_raw(user)),
                Some(Gid::from_raw(group)),
            )?),
            None => Ok(()),
        }
    }

    /// Makes `data` in this directory: what `initdb` makes, and the settings of the kit.
    pub(super) fn copy_template(&self, directory: &Path) -> io::Result<()> {
        let template = self.template()?;
        self.copy(&template, &directory.join("data"))
    }

    /// Where the template of this version is; it is made by the first test that asks for it, with
    /// the binaries of the tests, and goes with them.
    fn template(&self) -> io::Result<PathBuf> {
        let own = std::env::current_exe()?;
        let base = own
            .parent()
            .map(|directory| match directory.parent() {
                Some(above) if directory.ends_with("deps") => above,
                _ => directory,
            })
            .map(|directory| directory.join("postgres-template"))
            .ok_or_else(|| io::Error::other("this program is in no directory"))?;
        fs::create_dir_all(&base)?;
        let template = base.join(&self.version);
        let lock = File::create(base.join("lock"))?;
        // Until the end of this function: the others wait for the first.
        flock(&lock, FlockOperation::LockExclusive)?;
        if template.exists() {
            return Ok(template);
        }
        let directory = self.directory(&std::env::temp_dir(), "brigade-initdb-")?;
        let data = directory.path().join("data");
        self.run(
            "initdb",
            &[
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--pgdata",
                &data.display().to_string(),
            ],
        )?;
        append(&data.join("postgresql.conf"), SETTINGS)?;
        // A copy that was interrupted is not taken for the whole.
        let unfinished = base.join("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        self.copy(&data, &unfinished)?;
        fs::rename(&unfinished, &template)?;
        Ok(template)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the kit starts servers and tools"
    )]
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Much of a new log is empty.
        let status = Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([from, to])
            .status()?;
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "cp -a {} {} failed",
            from.display(),
            to.display()
        )))
    }
}

/// Adds lines to a file.
pub(super) fn append(file: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().append(true).open(file)?;
    file.write_all(text.as_bytes())
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .map(|entry| entry.path().join("bin"))
        .filter(|directory| directory.join("initdb").exists())
        .max_by_key(|directory| {
            let version = directory.parent().and_then(Path::file_name);
            version.and_then(|version| version.to_str()?.parse::<u32>().ok())
        })
}

/// The user and group of the servers, if they are not those of the tests.
fn user() -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    // PostgreSQL refuses to run as root.
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut ids = line.unwrap_or_default().split(':').skip(2);
    let mut id = || ids.next()?.parse::<u32>().ok();
    match (id(), id()) {
        (Some(user), Some(group)) => Ok(Some((user, group))),
        _ => Err(io::Error::other(
            "there is no user postgres for the server to run as: install Debian's package \
                postgresql",
        )),
    }
}
