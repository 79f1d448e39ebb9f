//! The programs of these tests, and what they share: a directory with a job file, a ledger and a
//! few files that say "go".

#![expect(
    unsafe_code,
    reason = "a constructor, as workers are entered under a test harness"
)]

use std::fs;
use std::future::Future;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brigade::Broker;
use brigade_testkit::facts;
use brigade_testkit::ledger::Ledger;
use brigade_testkit::program::{Program, ROLE_VARIABLE};
use rusqlite::{Connection, OpenFlags};

/// The programs of a module, by name.
pub(crate) type Roles = &'static [(&'static str, fn())];

/// Everything that this binary can be started as.
const ROLES: [Roles; 10] = [
    crate::alive::ROLES,
    crate::chains::ROLES,
    crate::commit::ROLES,
    crate::crash::ROLES,
    crate::frozen::ROLES,
    crate::full::ROLES,
    crate::hidden::ROLES,
    crate::locked::ROLES,
    crate::power::ROLES,
    crate::steps::ROLES,
];

const _: () = {
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;

    /// Takes the place of the test harness if this process was started in a role.
    extern "C" fn enter() {
        let Ok(role) = std::env::var(ROLE_VARIABLE) else {
            return;
        };
        let Some((_, run)) = ROLES
            .iter()
            .copied()
            .flatten()
            .find(|(name, _)| *name == role)
        else {
            std::process::exit(2)
        };
        brigade::init();
        let ended = std::panic::catch_unwind(AssertUnwindSafe(run));
        std::io::stdout().flush().ok();
        std::process::exit(if ended.is_ok() { 0 } else { 101 });
    }
};

/// No step takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// A lease that does not run out within a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs a program's part on a runtime of two threads.
pub(crate) fn block_on<F: Future>(part: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Box::pin(part))
}

/// Waits, bounded, until a fact of the system is so.
pub(crate) fn until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(
        facts::wait_until(BOUND, is_so).is_some(),
        "never came: {what}"
    );
}

/// The same for a task.
pub(crate) async fn until_file(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(millis(2)).await;
    }
}

/// Waits for a program that should end well.
pub(crate) fn finish(mut program: Program) -> String {
    let status = program.wait(BOUND);
    let log = program.log();
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}:\n{log}"
    );
    log
}

/// Starts a program that needs to mount, and sees it through.
pub(crate) fn run_with_mounts(role: &str, arguments: &[&str]) {
    let mut program = Program::start_with_mounts(role, arguments).unwrap();
    let bound = if brigade_testkit::full() {
        Duration::from_secs(1800)
    } else {
        2 * BOUND
    };
    let status = program.wait(bound);
    print!("{}", program.log());
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}; this test mounts a small disk: it needs root with CAP_SYS_ADMIN, or \
            unprivileged user namespaces\n{}",
        program.log()
    );
}

/// A small disk, mounted on a directory for as long as this program lives.
pub(crate) fn mount_small_disk(at: &Path, bytes: u64) {
    fs::create_dir_all(at).unwrap();
    let (target, options) = (
        std::ffi::CString::new(at.to_str().unwrap()).unwrap(),
        format!("size={bytes}"),
    );
    let options = std::ffi::CString::new(options).unwrap();
    // SAFETY: strings that end with a zero and live through the call.
    let mounted = unsafe {
        libc::mount(
            c"small".as_ptr(),
            target.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(
        mounted,
        0,
        "mount a tmpfs: {}",
        std::io::Error::last_os_error()
    );
}

/// A place where programs meet.
#[derive(Clone, Debug)]
pub(crate) struct Stage(PathBuf);

impl Stage {
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// The job file.
    pub(crate) fn file(&self) -> PathBuf {
        self.path("jobs.db")
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.file().display())
    }

    pub(crate) async fn broker(&self) -> Broker {
        Broker::connect(&self.url()).await.unwrap()
    }

    /// Looks at the job file as another program would.
    pub(crate) fn look(&self) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.file(), flags).unwrap();
        connection.busy_timeout(BOUND).unwrap();
        connection
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::open(self.path("ledger")).unwrap()
    }

    pub(crate) fn tell(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }
}

/// Whether the file is sound, in SQLite's own words: `ok` if so.
pub(crate) fn integrity(connection: &Connection) -> String {
    connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap_or_else(|error| error.to_string())
}
