//! The attacks: each tries one thing and says how that ended.
//!
//! All of them do no harm where they work, so that the same attack also shows, without a sandbox,
//! that it would have worked.

#![expect(unsafe_code, reason = "system calls that no safe wrapper offers")]
#![expect(clippy::disallowed_methods, reason = "starts programs")]

use std::ffi::{CString, c_long};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;

use serde::{Deserialize, Serialize};

/// What attacks are aimed at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) pool: i32,
    pub(crate) workers: Vec<i32>,
    /// With a file `file`, and Unix sockets `stream` and `datagram`.
    pub(crate) directory: PathBuf,
    pub(crate) tcp: u16,
    pub(crate) udp: u16,
    pub(crate) abstract_name: String,
}

impl Target {
    fn neighbour(&self) -> i32 {
        let own = std::process::id().cast_signed();
        *self.workers.iter().find(|pid| **pid != own).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.directory.join("file")
    }

    /// A name of this process's own in the directory.
    fn new_name(&self) -> PathBuf {
        self.directory.join(format!("new-{}", std::process::id()))
    }
}

/// Which profiles stop an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    Never,
    ByAll,
    /// By those that restrict files.
    ByReadOnly,
    ByCompute,
}

pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) stopped: Stopped,
    pub(crate) run: fn(&Target) -> io::Result<()>,
}

const fn row(name: &'static str, stopped: Stopped, run: fn(&Target) -> io::Result<()>) -> Attack {
    Attack { name, stopped, run }
}

pub(crate) const ATTACKS: &[Attack] = &[
    // The network.
    row("connect by TCP", Stopped::ByAll, |target| {
        TcpStream::connect(("127.0.0.1", target.tcp)).map(drop)
    }),
    row("listen on a TCP port", Stopped::ByAll, |_| {
        TcpListener::bind(("127.0.0.1", 0)).map(drop)
    }),
    row(
        "send by UDP, as for a DNS look-up",
        Stopped::ByAll,
        |target| {
            let socket = UdpSocket::bind(("127.0.0.1", 0))?;
            socket
                .send_to(b"query", ("127.0.0.1", target.udp))
                .map(drop)
        },
    ),
    row("connect to a Unix socket", Stopped::ByAll, |target| {
        UnixStream::connect(target.directory.join("stream")).map(drop)
    }),
    row(
        "connect to an abstract Unix socket",
        Stopped::ByAll,
        |target| {
            let address = SocketAddr::from_abstract_name(&target.abstract_name)?;
            UnixStream::connect_addr(&address).map(drop)
        },
    ),
    row(
        "turn a pair of sockets to another address",
        Stopped::ByAll,
        redirect_pair,
    ),
    row("open a netlink socket", Stopped::ByAll, |_| {
        call(|| unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) }.into()).map(close)
    }),
    row("make a pair of stream sockets", Stopped::Never, |_| {
        UnixStream::pair().map(drop)
    }),
    // Files.
    row("read a file", Stopped::ByCompute, |target| {
        fs::read(target.file()).map(drop)
    }),
    row("list a directory", Stopped::ByCompute, |target| {
        fs::read_dir(&target.directory).map(drop)
    }),
    row("write to a file", Stopped::ByReadOnly, |target| {
        OpenOptions::new().write(true).open(target.file()).map(drop)
    }),
    row("create and remove a file", Stopped::ByReadOnly, |target| {
        File::create_new(target.new_name())?;
        fs::remove_file(target.new_name())
    }),
    row("remove a file", Stopped::ByReadOnly, |target| {
        let removed = target.directory.join("removed");
        fs::remove_file(&removed)?;
        File::create_new(removed).map(drop)
    }),
    row("rename a file", Stopped::ByReadOnly, |target| {
        fs::rename(target.file(), target.new_name())?;
        fs::rename(target.new_name(), target.file())
    }),
    row("shorten a file", Stopped::ByReadOnly, |target| {
        let path = path_of(&target.file());
        call(|| unsafe { libc::truncate(path.as_ptr(), 4) }.into()).map(drop)
    }),
    row(
        "make a link and a directory",
        Stopped::ByReadOnly,
        |target| {
            std::os::unix::fs::symlink("/", target.new_name())?;
            fs::remove_file(target.new_name())?;
            fs::create_dir(target.new_name())?;
            fs::remove_dir(target.new_name())
        },
    ),
    row("change the mode of a file", Stopped::ByReadOnly, |target| {
        fs::set_permissions(target.file(), Permissions::from_mode(0o644))
    }),
    row(
        "change the times of a file",
        Stopped::ByReadOnly,
        |target| {
            let path = path_of(&target.file());
            call(|| {
                unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), ptr::null(), 0) }.into()
            })
            .map(drop)
        },
    ),
    row("give a file to its owner", Stopped::ByReadOnly, |target| {
        std::os::unix::fs::chown(target.file(), Some(unsafe { libc::geteuid() }), None)
    }),
    row(
        "set an attribute of a file",
        Stopped::ByReadOnly,
        |target| {
            let path = path_of(&target.file());
            let value = b"x";
            let set = || unsafe {
                libc::setxattr(
                    path.as_ptr(),
                    c"user.brigade".as_ptr(),
                    value.as_ptr().cast(),
                    1,
                    0,
                )
            };
            call(|| set().into()).map(drop)
        },
    ),
    row("watch a directory", Stopped::ByReadOnly, |target| {
        let watch = call(|| unsafe { libc::inotify_init1(libc::IN_CLOEXEC) }.into())?;
        let path = path_of(&target.directory);
        let watch_fd = i32::try_from(watch).unwrap();
        let added = call(|| unsafe { libc::inotify_add_watch(watch_fd, path.as_ptr(), 2) }.into());
        close(watch);
        added.map(drop)
    }),
    row(
        "watch a directory by signals",
        Stopped::ByReadOnly,
        |target| {
            let directory = File::open(&target.directory)?;
            let created = 4; // DN_CREATE of fcntl(2)
            let watch = || unsafe { libc::fcntl(directory.as_raw_fd(), 1026, created) };
            call(|| watch().into()).map(drop)
        },
    ),
    row("open /dev/null", Stopped::Never, |_| {
        OpenOptions::new().write(true).open("/dev/null").map(drop)
    }),
    // Other processes.
    row("trace a neighbour", Stopped::ByAll, |target| {
        // PTRACE_SEIZE and PTRACE_DETACH.
        let pid = target.neighbour();
        call(|| unsafe { libc::ptrace(0x4206, pid, 0, 0) })?;
        call(|| unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) }).ok();
        Ok(())
    }),
    row(
        "read the memory of a neighbour",
        Stopped::ByAll,
        read_memory,
    ),
    row(
        "open /proc/PID/mem of a neighbour",
        Stopped::ByAll,
        |target| File::open(format!("/proc/{}/mem", target.neighbour())).map(drop),
    ),
    row(
        "read the environment of a neighbour",
        Stopped::ByAll,
        |target| fs::read(format!("/proc/{}/environ", target.neighbour())).map(drop),
    ),
    row("signal the pool", Stopped::ByAll, |target| {
        call(|| unsafe { libc::kill(target.pool, libc::SIGCONT) }.into()).map(drop)
    }),
    row("signal a neighbour", Stopped::ByAll, |target| {
        call(|| unsafe { libc::kill(target.neighbour(), libc::SIGCONT) }.into()).map(drop)
    }),
    row("signal a neighbour by a pidfd", Stopped::ByAll, |target| {
        let pidfd = call(|| unsafe { libc::syscall(libc::SYS_pidfd_open, target.neighbour(), 0) })?;
        let sent = call(|| unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGCONT, 0, 0)
        });
        close(pidfd);
        sent.map(drop)
    }),
    row("limit the pool", Stopped::ByAll, |target| {
        let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
        call(|| {
            unsafe {
                libc::prlimit(
                    target.pool,
                    libc::RLIMIT_CORE,
                    ptr::null(),
                    limit.as_mut_ptr(),
                )
            }
            .into()
        })
        .map(drop)
    }),
    row("change the CPUs of a neighbour", Stopped::ByAll, |target| {
        let mut cpus = MaybeUninit::<libc::cpu_set_t>::zeroed();
        let bytes = size_of::<libc::cpu_set_t>();
        unsafe { libc::sched_getaffinity(0, bytes, cpus.as_mut_ptr()) };
        call(|| unsafe { libc::sched_setaffinity(target.neighbour(), bytes, cpus.as_ptr()) }.into())
            .map(drop)
    }),
    row("make a neighbour nicer", Stopped::ByAll, |target| {
        let pid = target.neighbour().cast_unsigned();
        call(|| unsafe { libc::setpriority(libc::PRIO_PROCESS, pid, 1) }.into()).map(drop)
    }),
    row("use shared memory of System V", Stopped::ByAll, |_| {
        let id = call(|| unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o600) }.into())?;
        let id = i32::try_from(id).unwrap();
        call(|| unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) }.into()).map(drop)
    }),
    // Programs.
    row("start a program", Stopped::ByCompute, |_| {
        Command::new("true").status().map(drop)
    }),
    row(
        "start a program in a session of its own",
        Stopped::ByAll,
        |_| {
            let status = Command::new("setsid")
                .args(["--fork", "--wait", "true"])
                .status()?;
            if status.success() {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EPERM))
            }
        },
    ),
    row("start a thread", Stopped::Never, |_| {
        std::thread::Builder::new().spawn(|| {})?.join().unwrap();
        Ok(())
    }),
    row("execute a file in memory", Stopped::ByAll, execute_memory),
    row("execute a descriptor", Stopped::ByAll, |_| {
        let program = File::open("/bin/true")?;
        in_child(|| execveat(program.as_raw_fd()))
    }),
    // The kernel.
    row("set up io_uring", Stopped::ByAll, |_| {
        let mut parameters = [0_u8; 120];
        system_call(
            libc::SYS_io_uring_setup,
            [1, parameters.as_mut_ptr().addr(), 0, 0, 0],
        )
    }),
    row("mount a file system", Stopped::ByAll, |target| {
        let path = path_of(&target.directory.join("mount"));
        let kind = c"tmpfs".as_ptr();
        call(|| unsafe { libc::mount(kind, path.as_ptr(), kind, 0, ptr::null()) }.into())?;
        call(|| unsafe { libc::umount2(path.as_ptr(), 0) }.into()).map(drop)
    }),
    row("make a user namespace", Stopped::ByAll, |_| {
        in_child(|| unsafe { libc::unshare(libc::CLONE_NEWUSER) })
    }),
    row("make a namespace by clone", Stopped::ByAll, |_| {
        child_with(libc::CLONE_NEWUSER, || 0)
    }),
    row("enter a namespace", Stopped::ByAll, |target| {
        let pidfd = call(|| unsafe { libc::syscall(libc::SYS_pidfd_open, target.pool, 0) })?;
        let entered =
            in_child(|| unsafe { libc::setns(i32::try_from(pidfd).unwrap(), libc::CLONE_NEWUTS) });
        close(pidfd);
        entered
    }),
    row("load a program of BPF", Stopped::ByAll, |_| {
        // BPF_MAP_CREATE of an array with one element.
        let map = [2_u32, 4, 4, 1, 0, 0];
        system_call(
            libc::SYS_bpf,
            [0, map.as_ptr().addr(), size_of_val(&map), 0, 0],
        )
    }),
    row("count events of the kernel", Stopped::ByAll, |_| {
        // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, without the kernel's part.
        let mut event = [0_u8; 112];
        event[0] = 1;
        event[4] = 112;
        event[40] = 0b110_0000;
        system_call(
            libc::SYS_perf_event_open,
            [event.as_ptr().addr(), 0, usize::MAX, usize::MAX, 0],
        )
    }),
    row("use a keyring", Stopped::ByAll, |_| {
        // KEYCTL_GET_KEYRING_ID of the process's.
        call(|| unsafe { libc::syscall(libc::SYS_keyctl, 0, -2, 1, 0, 0) }).map(drop)
    }),
    row("handle page faults", Stopped::ByAll, |_| {
        // UFFD_USER_MODE_ONLY.
        system_call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0])
    }),
];

/// Connects one end of a pair of datagram sockets elsewhere.
fn redirect_pair(target: &Target) -> io::Result<()> {
    let (one, _other) = std::os::unix::net::UnixDatagram::pair()?;
    one.connect(target.directory.join("datagram"))?;
    one.send(b"through a pair").map(drop)
}

fn read_memory(target: &Target) -> io::Result<()> {
    let mut byte = 0_u8;
    // The same program: the same code is at another address, so the error of a neighbour that can
    // be read is EFAULT.
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 1,
    };
    let read = call(|| unsafe {
        libc::process_vm_readv(
            target.neighbour(),
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        )
    } as c_long);
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        other => other.map(drop),
    }
}

fn execute_memory(_target: &Target) -> io::Result<()> {
    let memory = call(|| unsafe { libc::memfd_create(c"program".as_ptr(), 0) }.into())?;
    // SAFETY: it was made just now and nothing else has it.
    let mut memory = unsafe { File::from_raw_fd(i32::try_from(memory).unwrap()) };
    let mut program = Vec::new();
    File::open("/bin/true")?.read_to_end(&mut program)?;
    memory.write_all(&program)?;
    in_child(|| execveat(memory.as_raw_fd()))
}

/// Executes what a descriptor holds.
fn execveat(descriptor: i32) -> i32 {
    let arguments = [c"true".as_ptr(), ptr::null()];
    let variables = [ptr::null::<libc::c_char>()];
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            descriptor,
            c"".as_ptr(),
            arguments.as_ptr(),
            variables.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    i32::try_from(result).unwrap_or(-1)
}

/// Runs this in a child, which ends with the error.
fn in_child(run: impl FnOnce() -> i32) -> io::Result<()> {
    child_with(0, run)
}

fn child_with(flags: i32, run: impl FnOnce() -> i32) -> io::Result<()> {
    let flags = flags | libc::SIGCHLD;
    let child = call(|| unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    if child == 0 {
        let code = if run() == 0 {
            0
        } else {
            io::Error::last_os_error().raw_os_error().unwrap_or(1)
        };
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    let child = i32::try_from(child).unwrap();
    call(|| unsafe { libc::waitpid(child, &raw mut status, 0) }.into())?;
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn system_call(number: c_long, arguments: [usize; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = arguments;
    call(|| unsafe { libc::syscall(number, a, b, c, d, e) }).map(close)
}

fn call(call: impl FnOnce() -> c_long) -> io::Result<c_long> {
    match call() {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn close(descriptor: c_long) {
    if let Ok(descriptor) = i32::try_from(descriptor) {
        // SAFETY: it was opened by an attack just now.
        unsafe { libc::close(descriptor) };
    }
}

fn path_of(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}
