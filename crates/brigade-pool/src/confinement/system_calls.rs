//! The filters of system calls of a sandbox, by seccomp(2).
//!
//! Two filters: one refuses with EPERM, and one lets clone3(2) not exist, since its flags lie in
//! memory that a filter cannot read; C libraries use clone(2) then. A program of another
//! architecture (32 bits, for example) is ended at its first system call. On x86-64 each call is
//! refused in the numbers of the x32 ABI as well.
//!
//! What is refused by every sandbox: what reaches other processes, what leaves the process group
//! (by which the pool ends a tree), what hides work from these filters, and the parts of the kernel
//! that exploits use most and computations never.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Confined, unsupported};
use crate::error::{Error, ErrorKind};
use crate::sandbox::{Sandbox, SandboxRules};

/// Refused by every sandbox, whatever the arguments.
const ALWAYS: [c_long; 75] = [
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_ioprio_set,
    // The process group.
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // What these filters do not see.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_execveat,
    libc::SYS_memfd_secret,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_open_by_handle_at,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_sched_setattr,
    libc::SYS_process_mrelease,
];
/// Refused as well where files are restricted: landlock leaves modes, owners, times and attributes
/// of files alone, and lets anyone watch them.
const METADATA: [c_long; 15] = [
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
];
/// Refused as well without a network.
const NETWORK: [c_long; 3] = [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind];

/// What only x86-64 has.
#[cfg(target_arch = "x86_64")]
mod arch {
    use super::c_long;

    pub(super) const ALWAYS: [c_long; 3] = [libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
    pub(super) const METADATA: [c_long; 7] = [
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
        libc::SYS_inotify_init,
    ];
    pub(super) const PROGRAMS: [c_long; 2] = [libc::SYS_fork, libc::SYS_vfork];
    /// Marks a system call of the x32 ABI.
    const X32: c_long = 0x4000_0000;
    /// Those of the calls above that have a number of their own there, with it.
    const X32_NUMBERS: [(c_long, c_long); 8] = [
        (libc::SYS_execve, 520),
        (libc::SYS_ptrace, 521),
        (libc::SYS_kexec_load, 528),
        (libc::SYS_process_vm_readv, 539),
        (libc::SYS_process_vm_writev, 540),
        (libc::SYS_execveat, 545),
        (libc::SYS_ioctl, 514),
        (libc::SYS_move_pages, 533),
    ];

    /// The other numbers of a system call.
    pub(super) fn other_numbers(call: c_long) -> impl Iterator<Item = c_long> {
        let own = X32_NUMBERS.iter().filter(move |(known, _)| *known == call);
        own.map(|(_, number)| number | X32)
            .chain(std::iter::once(call | X32))
    }
}
#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use super::c_long;

    pub(super) const ALWAYS: [c_long; 0] = [];
    pub(super) const METADATA: [c_long; 0] = [];
    pub(super) const PROGRAMS: [c_long; 0] = [];

    pub(super) fn other_numbers(_call: c_long) -> impl Iterator<Item = c_long> {
        std::iter::empty()
    }
}

// The same on every architecture; the C library's crate does not have them yet.
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_SETXATTRAT: c_long = 463;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_FILE_SETATTR: c_long = 469;

/// Namespaces that clone(2) makes.
const NAMESPACES: [c_int; 8] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWTIME,
];
/// Puts characters into a terminal as if they had been typed.
const TERMINAL_REQUESTS: [u64; 2] = [0x5412, 0x541c];
/// FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_ENABLE_VERITY and FS_IOC_SETVERSION; the last two
/// work on a descriptor for reading.
const ATTRIBUTE_REQUESTS: [u64; 4] = [0x4008_6602, 0x401c_5820, 0x4080_6685, 0x4008_7602];
/// F_NOTIFY of fcntl(2): signals what happens in a directory.
const NOTIFY: u64 = 1026;
/// A file in memory that can never be executed.
const MFD_NOEXEC_SEAL: u64 = 8;
/// The part of a socket's type that is not flags.
const SOCKET_TYPE: u64 = 0xf;
const PRIO_PROCESS: u64 = 0;
/// personality(2) that only asks.
const PERSONALITY_ASK: u64 = 0xffff_ffff;

/// Whether seccomp can refuse system calls here. It does not change.
static IS_SUPPORTED: OnceLock<bool> = OnceLock::new();

/// # Errors
///
/// `Unsupported` if the kernel has no filters of system calls, or this architecture is not known.
pub(super) fn check(sandbox: &Sandbox) -> Result<(), Error> {
    let is_supported = IS_SUPPORTED.get_or_init(|| {
        let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
        actions.is_ok_and(|actions| actions.split_whitespace().any(|action| action == "errno"))
    });
    if !is_supported {
        let what = "the kernel does not offer seccomp filters (CONFIG_SECCOMP_FILTER), or /proc is \
            not mounted; run it on a kernel that has them, or without a sandbox";
        return Err(unsupported(sandbox, what));
    }
    if TargetArch::try_from(std::env::consts::ARCH).is_err() {
        let what = "no filters of system calls are known for this architecture: there are x86-64 \
            and aarch64";
        return Err(unsupported(sandbox, what));
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// # Errors
///
/// `Unsupported` if no filter can be made.
pub(super) fn filters(rules: &SandboxRules, confined: Confined) -> Result<Vec<BpfProgram>, Error> {
    let denied = denied(rules, confined).map_err(|e| uncompiled(&e))?;
    let missing = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let errno = |code: c_int| SeccompAction::Errno(code.unsigned_abs());
    [(denied, libc::EPERM), (missing, libc::ENOSYS)]
        .into_iter()
        .map(|(rules, code)| compiled(rules, errno(code)).map_err(|e| uncompiled(&e)))
        .collect()
}

fn compiled(
    mut rules: Rules,
    action: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    for (call, conditions) in rules.clone() {
        for number in arch::other_numbers(call) {
            rules.insert(number, conditions.clone());
        }
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
}

fn uncompiled(error: &seccompiler::BackendError) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("make the system call filter of a sandbox: {error}"),
    )
}

/// What is refused with EPERM: calls whatever their arguments (no rules), or by their arguments.
fn denied(rules: &SandboxRules, confined: Confined) -> Result<Rules, seccompiler::BackendError> {
    let mut denied: Rules = ALWAYS
        .into_iter()
        .chain(arch::ALWAYS)
        .map(|call| (call, Vec::new()))
        .collect();
    of_other_processes(&mut denied, confined)?;
    let mut requests = TERMINAL_REQUESTS.to_vec();
    if !rules.all_files {
        let calls = METADATA.into_iter().chain(arch::METADATA);
        denied.extend(calls.map(|call| (call, Vec::new())));
        denied.insert(libc::SYS_inotify_init1, Vec::new());
        requests.extend(ATTRIBUTE_REQUESTS);
        let notify = vec![low(1, SeccompCmpOp::Eq, NOTIFY)?];
        denied.insert(libc::SYS_fcntl, all([Ok(notify)])?);
    }
    let of_request = |request| Ok(vec![low(1, SeccompCmpOp::Eq, request)?]);
    denied.insert(libc::SYS_ioctl, all(requests.into_iter().map(of_request))?);
    let not_sealed = vec![low(1, SeccompCmpOp::MaskedEq(MFD_NOEXEC_SEAL), 0)?];
    denied.insert(libc::SYS_memfd_create, all([Ok(not_sealed)])?);
    let changed = vec![low(0, SeccompCmpOp::Ne, PERSONALITY_ASK)?];
    denied.insert(libc::SYS_personality, all([Ok(changed)])?);
    if !rules.network {
        of_sockets(&mut denied)?;
    }
    // A child of this process's parent would be outside of the tree that its limits hold for.
    let parent = u64::from(libc::CLONE_PARENT.unsigned_abs());
    let mut clones: Vec<Conditions> = vec![vec![low(0, SeccompCmpOp::MaskedEq(parent), parent)?]];
    for namespace in NAMESPACES {
        let flag = u64::from(namespace.unsigned_abs());
        clones.push(vec![low(0, SeccompCmpOp::MaskedEq(flag), flag)?]);
    }
    if !rules.programs {
        let calls = arch::PROGRAMS.into_iter().chain([libc::SYS_execve]);
        denied.extend(calls.map(|call| (call, Vec::new())));
        let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
        clones.push(vec![low(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
    }
    denied.insert(libc::SYS_clone, all(clones.into_iter().map(Ok))?);
    Ok(denied)
}

/// Limits and scheduling of other processes: landlock does not look at them.
fn of_other_processes(
    denied: &mut Rules,
    confined: Confined,
) -> Result<(), seccompiler::BackendError> {
    let mut other = vec![low(0, SeccompCmpOp::Ne, 0)?];
    if confined == Confined::OwnProcess {
        other.push(low(0, SeccompCmpOp::Ne, u64::from(std::process::id()))?);
    }
    for call in [
        libc::SYS_prlimit64,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
    ] {
        denied.insert(call, all([Ok(other.clone())])?);
    }
    let priorities = [
        Ok(vec![low(0, SeccompCmpOp::Ne, PRIO_PROCESS)?]),
        Ok(vec![low(1, SeccompCmpOp::Ne, 0)?]),
    ];
    denied.insert(libc::SYS_setpriority, all(priorities)?);
    Ok(())
}

/// No sockets but connected pairs, which no address can be given. A pair of datagram sockets could
/// be connected elsewhere, and the kernel takes SOCK_RAW for one.
fn of_sockets(denied: &mut Rules) -> Result<(), seccompiler::BackendError> {
    denied.extend(NETWORK.map(|call| (call, Vec::new())));
    let of_type = |kind: c_int| {
        let kind = u64::from(kind.unsigned_abs());
        Ok(vec![low(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE), kind)?])
    };
    let family = u64::from(libc::AF_UNIX.unsigned_abs());
    let pairs = [
        Ok(vec![low(0, SeccompCmpOp::Ne, family)?]),
        of_type(libc::SOCK_DGRAM),
        of_type(libc::SOCK_RAW),
    ];
    denied.insert(libc::SYS_socketpair, all(pairs)?);
    let to_an_address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    denied.insert(libc::SYS_sendto, all([Ok(vec![to_an_address])])?);
    Ok(())
}

type Conditions = Vec<SeccompCondition>;

/// A condition on the lower half of an argument, which is all that the kernel takes of an `int`.
fn low(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// One rule for each set of conditions; a call is refused if any of them holds.
fn all(
    conditions: impl IntoIterator<Item = Result<Conditions, seccompiler::BackendError>>,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    conditions
        .into_iter()
        .map(|conditions| SeccompRule::new(conditions?))
        .collect()
}
