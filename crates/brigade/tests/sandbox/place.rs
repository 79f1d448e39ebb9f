//! Where scenarios run: this binary started again as a program of its own, as three users.

#![expect(
    unsafe_code,
    reason = "a constructor, as workers are entered under a test harness"
)]
#![expect(clippy::disallowed_methods, reason = "starts programs as other users")]

use std::future::Future;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::time::Duration;

use brigade::{Builder, Pool};
use brigade_testkit::facts;
use brigade_testkit::program::{Program, ROLE_VARIABLE};

/// A scenario, by name.
type Role = (&'static str, fn());

/// Everything that this binary can be started as.
const ROLES: [&[Role]; 3] = [
    crate::calls::ROLES,
    crate::choice::ROLES,
    crate::table::ROLES,
];

/// Makes a test of each scenario, which runs it in all places.
macro_rules! scenarios {
    ($($(#[$attribute:meta])* $test:ident => $scenario:ident),* $(,)?) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $test() {
                $crate::place::run(stringify!($scenario));
            }
        )*

        pub(crate) const ROLES: &[(&str, fn())] = &[
            $((stringify!($scenario), || $crate::place::block_on($scenario())),)*
        ];
    };
}
pub(crate) use scenarios;

/// No scenario takes this long, however loaded the machine is.
const BOUND: Duration = Duration::from_secs(120);
/// A user and group without rights.
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs a role as this user, as an ordinary one, and in a user namespace of that one, where it has
/// no rights to control groups. Nothing may be left behind.
pub(crate) fn run(role: &str) {
    let own = std::env::current_exe().unwrap();
    finish(Program::start(role).unwrap(), "as this user");
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(NOBODY).arg("--");
        command
    };
    let works = |mut command: Command| command.status().is_ok_and(|status| status.success());
    let mut probe = as_nobody();
    probe.args(["test", "-x"]).arg(&own);
    if !works(probe) {
        return println!("MISSING: root, to become another user that may execute this binary");
    }
    let mut command = as_nobody();
    command.arg(&own);
    finish(
        Program::start_by(command, role).unwrap(),
        "as an ordinary user",
    );
    let in_namespace = || {
        let mut command = as_nobody();
        command.args(["unshare", "--user", "--map-root-user", "--"]);
        command
    };
    let mut probe = in_namespace();
    probe.arg("true");
    if !works(probe) {
        return println!("MISSING: user namespaces for ordinary users");
    }
    let mut command = in_namespace();
    command.arg(&own);
    finish(
        Program::start_by(command, role).unwrap(),
        "in a user namespace",
    );
}

fn finish(mut program: Program, place: &str) {
    let status = program.wait(BOUND);
    print!("== {place}\n{}", program.log());
    let status = status.unwrap_or_else(|| panic!("it hangs {place}"));
    assert!(status.success(), "{place}: {status}");
    let gone = facts::wait_until(Duration::from_secs(5), || program.descendants().is_empty());
    assert!(gone.is_some(), "left behind: {:?}", program.descendants());
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
        let mut roles = ROLES.iter().copied().flatten();
        let Some((_, run)) = roles.find(|(name, _)| *name == role) else {
            std::process::exit(2)
        };
        brigade::init();
        let ended = std::panic::catch_unwind(AssertUnwindSafe(run));
        std::io::stdout().flush().ok();
        std::process::exit(if ended.is_ok() { 0 } else { 101 });
    }
};

pub(crate) fn block_on(scenario: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(BOUND, scenario).await.unwrap() });
}

/// A pool with so many workers, all of which are there.
pub(crate) async fn pool(workers: usize, set: impl FnOnce(Builder) -> Builder) -> Pool {
    let pool = set(Pool::builder().workers(workers)).start().await.unwrap();
    pool.ready(workers).await.unwrap();
    pool
}
