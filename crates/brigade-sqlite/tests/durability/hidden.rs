//! Holders that `/proc` hides: of another user under `hidepid`, and where `/proc` is that of
//! another PID namespace. They live, so their jobs are theirs.
//!
//! Both need root, as containers and systemd have it. Without it another user's processes cannot be
//! had at all, and a user namespace gives the second case alone.

#![expect(
    unsafe_code,
    reason = "namespaces, mounts and users, which the library of types does not have"
)]

use std::ffi::CStr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use brigade::{JobState, Settled};
use brigade_testkit::program::{Program, arguments};

use crate::stage::{BOUND, LONG, Roles, Stage, block_on, finish, run_with_mounts};

pub(crate) const ROLES: Roles = &[
    ("looks_hidden", looks_hidden),
    ("looks_nested", looks_nested),
    ("looks", looks),
];

/// As the user that owns nothing.
const NOBODY: libc::uid_t = 65_534;

#[expect(clippy::disallowed_methods, reason = "the lease goes on meanwhile")]
fn with_a_live_holder(role: &str) {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    block_on(async {
        let broker = stage.broker().await;
        let id = broker.queue("q").push(&1).await.unwrap();
        let lease = broker
            .queue("q")
            .lease(LONG, Duration::ZERO)
            .await
            .unwrap()
            .unwrap();
        for path in [
            stage.path(""),
            stage.file(),
            stage.path("jobs.db-wal"),
            stage.path("jobs.db-shm"),
        ] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let (role, arguments) = (role.to_owned(), [stage.text().to_owned(), id.to_string()]);
        let looking = move || run_with_mounts(&role, &arguments.each_ref().map(String::as_str));
        tokio::task::spawn_blocking(looking).await.unwrap();
        assert_eq!(
            lease.ack().await.unwrap(),
            Settled::Accepted(None),
            "it was this holder's all the time"
        );
    });
}

#[test]
fn a_live_holder_whom_proc_hides_keeps_its_job() {
    with_a_live_holder("looks_hidden");
}

#[test]
fn a_live_holder_keeps_its_job_where_proc_is_of_another_pid_namespace() {
    with_a_live_holder("looks_nested");
}

fn looks_hidden() {
    mount_proc(c"hidepid=2");
    // SAFETY: changes the ids of this process alone; everything after it is meant to run as that
    // user.
    let is_nobody = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
            && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
    };
    assert!(is_nobody, "{}", std::io::Error::last_os_error());
    looks();
}

fn looks_nested() {
    // SAFETY: only the children of this process are in the new namespace, and see the `/proc` of
    // the old one.
    let changed = unsafe { libc::unshare(libc::CLONE_NEWPID) };
    assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
    let arguments: Vec<String> = arguments();
    let nested = Program::start_with(
        "looks",
        &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .unwrap();
    finish(nested);
}

fn mount_proc(options: &CStr) {
    // SAFETY: strings that end with a zero and live through the call.
    let mounted = unsafe {
        libc::mount(
            c"proc".as_ptr(),
            c"/proc".as_ptr(),
            c"proc".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(
        mounted,
        0,
        "mount a proc: {}",
        std::io::Error::last_os_error()
    );
}

/// What a look, a lease and an explanation of another process come to.
fn looks() {
    let [directory, id] = &arguments()[..] else {
        panic!("a directory and a job")
    };
    let stage = Stage::new(directory);
    block_on(async {
        let broker = stage.broker().await;
        let id = brigade::JobId::new(id.as_str());
        for _ in 0..3 {
            assert!(
                broker
                    .queue("q")
                    .lease(BOUND, Duration::ZERO)
                    .await
                    .unwrap()
                    .is_none(),
                "its holder lives"
            );
            broker.why(&id).await.unwrap().unwrap();
            assert_eq!(
                broker.job(&id).await.unwrap().unwrap().state,
                JobState::Leased
            );
        }
    });
}
