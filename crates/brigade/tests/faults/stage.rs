//! Where scenarios run: a program of its own for each, bounded in time, and nothing of it left at
//! the end.

#![expect(
    unsafe_code,
    reason = "a constructor, as workers are entered under a test harness, and the signal state \
        that `main` would have"
)]

use std::future::Future;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use brigade::{Event, Events, Pool};
use brigade_testkit::facts;
use brigade_testkit::program::{DIRECTORY_VARIABLE, Program, ROLE_VARIABLE};

/// A scenario or the program of a parent, by name.
pub(crate) type Roles = &'static [(&'static str, fn())];

/// Everything that this binary can be started as.
const ROLES: [Roles; 18] = [
    crate::cgroup::ROLES,
    crate::chaos::ROLES,
    crate::crash::ROLES,
    crate::damage::ROLES,
    crate::held_up::ROLES,
    crate::host::ROLES,
    crate::hostile::ROLES,
    crate::identity::ROLES,
    crate::kill::ROLES,
    crate::leaks::ROLES,
    crate::limits::ROLES,
    crate::load::ROLES,
    crate::parent::ROLES,
    crate::schedules::ROLES,
    crate::start::ROLES,
    crate::states::ROLES,
    crate::surroundings::ROLES,
    crate::ten_endings::ROLES,
];

/// Makes a test of each scenario, an `async fn()`, that runs it in a program of its own. Roles that
/// are no test of their own follow after a semicolon.
macro_rules! scenarios {
    ($($(#[$attribute:meta])* $test:ident => $scenario:ident),* $(,)? $(; $($role:ident),* $(,)?)?) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $test() {
                $crate::stage::run(stringify!($scenario));
            }
        )*

        pub(crate) const ROLES: $crate::stage::Roles = &[
            $((stringify!($scenario), || $crate::stage::block_on($scenario())),)*
            $($((stringify!($role), || $crate::stage::block_on($role())),)*)?
        ];
    };
}
pub(crate) use scenarios;

/// No scenario takes this long, however loaded the machine is.
const SCENARIO_BOUND: Duration = Duration::from_secs(50);
const SCENARIO_BOUND_FULL: Duration = Duration::from_secs(1800);

/// Runs a role in a program of its own and checks that it ends well and leaves nothing behind.
pub(crate) fn run(role: &str) {
    let program = Program::start(role).unwrap();
    finish(program);
}

/// Waits for a program that should end well.
pub(crate) fn finish(mut program: Program) {
    let bound = if brigade_testkit::full() {
        SCENARIO_BOUND_FULL
    } else {
        SCENARIO_BOUND
    };
    let began = Instant::now();
    let status = program.wait(bound);
    let took = began.elapsed();
    print!("{}", program.log());
    let status = status.unwrap_or_else(|| panic!("it hangs: {}", stuck(&program)));
    assert!(status.success(), "{status}");
    let gone = facts::wait_until(Duration::from_secs(2), || program.descendants().is_empty());
    assert!(gone.is_some(), "left behind: {:?}", program.descendants());
    println!("took {took:.2?}");
}

fn stuck(program: &Program) -> String {
    let own = std::iter::once(program.pid()).chain(program.descendants());
    own.map(|pid| {
        format!(
            "{:?} waits in {:?}; ",
            facts::process(pid),
            facts::waits_in(pid)
        )
    })
    .collect()
}

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
        // What the standard library does before a `main`.
        // SAFETY: no other thread runs yet, and ignoring a signal needs no handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        if role.ends_with("_service") {
            // SAFETY: changes the mask of the only thread, which all threads to come inherit.
            unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, &service_signals(), std::ptr::null_mut())
            };
        }
        let ended = std::panic::catch_unwind(AssertUnwindSafe(run));
        std::io::stdout().flush().ok();
        std::process::exit(if ended.is_ok() { 0 } else { 101 });
    }
};

/// The signals that end a service.
pub(crate) fn service_signals() -> libc::sigset_t {
    // SAFETY: fills a local, for which zero is valid.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}

/// Runs a scenario on a runtime of two threads.
pub(crate) fn block_on(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Box::pin(scenario));
}

/// The program's own directory.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY_VARIABLE).unwrap())
}

/// A file in it, as tasks take it.
pub(crate) fn file(name: &str) -> String {
    directory().join(name).to_str().unwrap().to_owned()
}

/// No event takes this long.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Waits, bounded, until a fact of the system is so; returns how long that took.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < BOUND, "never came: {what}");
        tokio::time::sleep(millis(1)).await;
    }
    began.elapsed()
}

/// Waits, bounded, for a future.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(BOUND, future)
        .await
        .unwrap_or_else(|_| panic!("hangs: {what}"))
}

/// Waits, bounded, until a task has written its file; returns what stands there.
pub(crate) async fn written(name: &str) -> String {
    let path = directory().join(name);
    let read = || {
        std::fs::read_to_string(&path)
            .ok()
            .filter(|text| text.ends_with('\n'))
    };
    until(name, || read().is_some()).await;
    read().unwrap().trim().to_owned()
}

/// Waits, bounded, for an event.
pub(crate) async fn event<R>(
    events: &mut Events,
    what: &str,
    mut wanted: impl FnMut(&Event) -> Option<R>,
) -> R {
    within(what, async {
        loop {
            let event = events
                .next()
                .await
                .unwrap_or_else(|| panic!("the pool is gone: {what}"));
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    })
    .await
}

/// Number of the pool's first worker that is there.
pub(crate) fn worker_pid(pool: &Pool) -> u32 {
    pool.workers()
        .iter()
        .find_map(|worker| worker.pid)
        .expect("a worker is there")
}

/// Ends the pool and checks that this process has no child left, not even a zombie.
pub(crate) async fn end(pool: Pool) {
    within("shutdown", pool.shutdown()).await;
    drop(pool);
    assert_childless();
}

pub(crate) fn assert_childless() {
    let children = facts::children(std::process::id());
    assert!(children.is_empty(), "children are left: {children:?}");
}

/// This binary, for a user who may not look at where it lies: opened by us, run by its descriptor.
pub(crate) fn command_by_descriptor() -> std::process::Command {
    use std::os::fd::IntoRawFd as _;
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    // SAFETY: `fcntl` on a descriptor of our own, which then stays open for the child.
    let fd = unsafe {
        let fd = file.into_raw_fd();
        libc::fcntl(fd, libc::F_SETFD, 0);
        fd
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "starts this program as another user"
    )]
    std::process::Command::new(format!("/proc/self/fd/{fd}"))
}
