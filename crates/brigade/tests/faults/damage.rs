//! What one task changes in its process, the next never sees: each change that a process can keep,
//! one by one.

#![expect(unsafe_code, reason = "the changes are made as C libraries make them")]

use std::mem;
use std::ptr;

use brigade::{Event, Events, Pool, task};

use crate::stage::{end, event, scenarios, within};

scenarios! {
    a14_each_change_that_a_process_keeps_is_found_and_its_worker_replaced => changes_one_by_one,
}

/// What it is called, a word of the reason, whether only root can do it, and how it is done.
/// `false` if it cannot be done here.
type Change = (&'static str, &'static str, bool, fn() -> bool);

const RESOURCES: [libc::__rlimit_resource_t; 16] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

const CHANGES: [Change; 42] = [
    ("alarm", "timer", false, || unsafe {
        libc::alarm(3600) == 0
    }),
    ("virtual timer", "timer", false, || {
        set_timer(libc::ITIMER_VIRTUAL)
    }),
    ("profiling timer", "timer", false, || {
        set_timer(libc::ITIMER_PROF)
    }),
    ("POSIX timer", "timer", false, posix_timer),
    ("standard input", "standard input", false, || redirect(0)),
    ("standard output", "standard output", false, || redirect(1)),
    ("standard error", "standard error", false, || redirect(2)),
    (
        "closed standard output",
        "standard output",
        false,
        || unsafe { libc::close(1) == 0 },
    ),
    ("O_NONBLOCK", "standard stream", false, || unsafe {
        libc::fcntl(2, libc::F_SETFL, libc::O_WRONLY | libc::O_NONBLOCK) == 0
    }),
    ("descriptors", "descriptor", false, leave_descriptors_open),
    ("affinity", "affinity", false, affinity),
    ("policy", "scheduling", false, || unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_BATCH,
            &libc::sched_param { sched_priority: 0 },
        ) == 0
    }),
    ("niceness", "niceness", false, || unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19) == 0
    }),
    ("IO priority", "IO priority", false, || unsafe {
        libc::syscall(libc::SYS_ioprio_set, 1, 0, 3 << 13) == 0
    }),
    ("ignored SIGUSR2", "signal", false, || {
        set_handler(libc::SIGUSR2, libc::SIG_IGN)
    }),
    ("caught SIGWINCH", "signal", false, || {
        set_handler(libc::SIGWINCH, nothing as *const () as usize)
    }),
    ("real-time signal", "signal", false, || {
        set_handler(libc::SIGRTMIN() + 3, libc::SIG_IGN)
    }),
    ("SIGTERM", "signal", false, || {
        set_handler(libc::SIGTERM, libc::SIG_DFL)
    }),
    ("SIGSEGV", "signal", false, || {
        set_handler(libc::SIGSEGV, libc::SIG_DFL)
    }),
    ("mask", "signal mask", false, block_signal),
    ("umask", "umask", false, || unsafe {
        libc::umask(0o123) != 0o123
    }),
    ("directory", "working directory", false, || unsafe {
        libc::chdir(c"/proc".as_ptr()) == 0
    }),
    ("variable", "environment", false, || unsafe {
        libc::setenv(c"LEFT".as_ptr(), c"behind".as_ptr(), 1) == 0
    }),
    (
        "variable in place",
        "environment",
        false,
        change_variable_in_place,
    ),
    ("locale", "locale", false, || unsafe {
        !libc::setlocale(libc::LC_ALL, c"C.UTF-8".as_ptr()).is_null()
    }),
    ("rounding", "floating point", false, rounding),
    ("personality", "personality", false, || unsafe {
        libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) != -1
    }),
    ("dumpable", "prctl", false, || unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0) == 0
    }),
    ("name", "name", false, || unsafe {
        libc::prctl(libc::PR_SET_NAME, c"other".as_ptr()) == 0
    }),
    ("reaper", "prctl", false, || unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) == 0
    }),
    ("death signal", "prctl", false, || unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT) == 0
    }),
    ("timer slack", "prctl", false, || unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1234) == 0
    }),
    ("huge pages", "huge pages", false, || unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
    }),
    ("seccomp", "seccomp", false, seccomp),
    ("panic hook", "panic hook", false, || {
        std::panic::set_hook(Box::new(|_| {}));
        true
    }),
    ("root directory", "root", true, || unsafe {
        libc::chroot(c"/proc".as_ptr()) == 0
    }),
    ("mounts", "root", true, || unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
    }),
    ("network", "namespace", true, || unsafe {
        libc::unshare(libc::CLONE_NEWNET) == 0
    }),
    ("process numbers", "namespace", true, || unsafe {
        libc::unshare(libc::CLONE_NEWPID) == 0
    }),
    ("bounding set", "capabilities", true, || unsafe {
        libc::prctl(libc::PR_CAPBSET_DROP, 13, 0, 0, 0) == 0
    }),
    ("groups", "group", true, || unsafe {
        libc::setgroups(1, &4242) == 0
    }),
    ("user", "user", true, || unsafe {
        libc::setresuid(4242, 4242, 4242) == 0
    }),
];

/// Changes the process. Returns its number, or zero if it could not be done.
#[task]
fn damage(index: usize) -> u32 {
    if CHANGES[index].3() {
        std::process::id()
    } else {
        0
    }
}

/// Lowers one resource limit. Zero if it is at its lowest.
#[task]
fn limit(index: usize) -> u32 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let lowered = unsafe {
        libc::getrlimit(RESOURCES[index], &raw mut limit) == 0 && limit.rlim_cur > 0 && {
            limit.rlim_cur = limit.rlim_cur.min(1 << 46) - 1;
            libc::setrlimit(RESOURCES[index], &raw const limit) == 0
        }
    };
    if lowered { std::process::id() } else { 0 }
}

#[task]
fn innocent() -> u32 {
    std::process::id()
}

async fn changes_one_by_one() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let mut events = pool.events();
    let is_root = rustix::process::geteuid().is_root();
    for (index, (what, word, needs_root, _)) in CHANGES.into_iter().enumerate() {
        if needs_root && !is_root {
            println!("not done, as it needs root: {what}");
            continue;
        }
        let changed_in = within(what, pool.call(damage(index))).await.unwrap();
        check(&pool, &mut events, what, word, changed_in).await;
    }
    for index in 0..RESOURCES.len() {
        let changed_in = within("a limit", pool.call(limit(index))).await.unwrap();
        check(
            &pool,
            &mut events,
            &format!("limit {index}"),
            "resource limit",
            changed_in,
        )
        .await;
    }
    let first = within("innocent", pool.call(innocent())).await.unwrap();
    for _ in 0..200 {
        assert_eq!(
            within("innocent", pool.call(innocent())).await.unwrap(),
            first,
            "a task that changes nothing keeps its worker"
        );
    }
    assert_eq!(pool.stats().crashed, 0);
    end(pool).await;
}

async fn check(pool: &Pool, events: &mut Events, what: &str, word: &str, changed_in: u32) {
    if changed_in == 0 {
        return println!("not done, as it cannot be done here: {what}");
    }
    assert_ne!(
        within("innocent", pool.call(innocent())).await.unwrap(),
        changed_in,
        "{what}"
    );
    let reason = event(events, "it is retired", |event| match event {
        Event::WorkerRetiring { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    let reason = reason.await;
    assert!(reason.contains(word), "{what}: {reason}");
}

fn set_timer(which: libc::c_int) -> bool {
    let hour = libc::timeval {
        tv_sec: 3600,
        tv_usec: 0,
    };
    let timer = libc::itimerval {
        it_interval: hour,
        it_value: hour,
    };
    unsafe { libc::setitimer(which, &raw const timer, ptr::null_mut()) == 0 }
}

fn posix_timer() -> bool {
    unsafe {
        let mut how: libc::sigevent = mem::zeroed();
        how.sigev_notify = libc::SIGEV_NONE;
        let mut timer = ptr::null_mut();
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut how, &raw mut timer) == 0
            && std::path::Path::new("/proc/self/timers").exists()
    }
}

fn redirect(descriptor: i32) -> bool {
    unsafe {
        let null = libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let done = libc::dup2(null, descriptor) == descriptor;
        libc::close(null);
        done
    }
}

fn leave_descriptors_open() -> bool {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    most < 1 << 21
        && (0..most / 2 + 1).all(|_| unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 0) } >= 0)
}

fn affinity() -> bool {
    let mut set = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..rustix::thread::CpuSet::MAX_CPU)
        .find(|cpu| set.is_set(*cpu))
        .unwrap();
    set.unset(first);
    rustix::thread::sched_setaffinity(None, &set).is_ok()
}

extern "C" fn nothing(_: libc::c_int) {}

fn set_handler(signal: i32, handler: usize) -> bool {
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler;
        libc::sigaction(signal, &raw const action, ptr::null_mut()) == 0
    }
}

fn block_signal() -> bool {
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGRTMIN() + 4);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) == 0
    }
}

/// Where a variable lies, a C library may also write.
fn change_variable_in_place() -> bool {
    unsafe {
        let value = libc::getenv(c"PATH".as_ptr());
        if value.is_null() || *value == 0 {
            return false;
        }
        *value = b':'.cast_signed();
        true
    }
}

#[cfg(target_arch = "x86_64")]
fn rounding() -> bool {
    let mut mode = 0_u32;
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack));
        // Tiny numbers count as zero, as audio libraries like it.
        mode |= 1 << 15 | 1 << 6;
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mode, options(nostack));
    }
    true
}

#[cfg(not(target_arch = "x86_64"))]
fn rounding() -> bool {
    false
}

/// A filter that allows everything.
fn seccomp() -> bool {
    let mut allow = libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut allow,
    };
    unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        ) == 0
    }
}
