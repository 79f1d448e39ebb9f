//! What each profile stops: every attack in every profile, and without a sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use brigade::{Pool, Sandbox, task};

use crate::attacks::{ATTACKS, Stopped, Target};
use crate::place::{pool, scenarios};

scenarios! {
    every_row_of_the_table_is_stopped_where_it_says_so => rows,
}

/// Tries all attacks; returns the number of the error of each that did not work.
#[task]
fn attack(target: Target) -> BTreeMap<String, Option<i32>> {
    let tried = ATTACKS.iter().map(|attack| {
        let error = (attack.run)(&target).err();
        let number = error.map(|error| error.raw_os_error().unwrap_or(-1));
        (attack.name.to_owned(), number)
    });
    tried.collect()
}

#[task]
fn process() -> u32 {
    std::process::id()
}

async fn tried(
    pool: &Pool,
    target: &Target,
    sandbox: Option<Sandbox>,
) -> BTreeMap<String, Option<i32>> {
    let call = attack(target.clone());
    let call = match sandbox {
        Some(sandbox) => call.sandbox(sandbox),
        None => call,
    };
    pool.call(call).await.unwrap()
}

async fn rows() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    for name in ["file", "removed"] {
        fs::write(file(name), b"text").unwrap();
    }
    fs::create_dir(file("mount")).unwrap();
    let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let udp = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let _stream = UnixListener::bind(file("stream")).unwrap();
    let _datagram = UnixDatagram::bind(file("datagram")).unwrap();
    let abstract_name = format!("brigade-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    for (column, sandbox) in [
        (0, None),
        (1, Some(Sandbox::no_network())),
        (2, Some(Sandbox::read_only())),
        (3, Some(Sandbox::compute())),
    ] {
        // A pool for each, so that the neighbour has no sandbox and has not been attacked.
        let pool = pool(2, |builder| builder).await;
        let workers = pool.workers();
        let target = Target {
            pool: std::process::id().cast_signed(),
            workers: workers
                .iter()
                .map(|worker| worker.pid.unwrap().cast_signed())
                .collect(),
            directory: directory.path().to_owned(),
            tcp: tcp.local_addr().unwrap().port(),
            udp: udp.local_addr().unwrap().port(),
            abstract_name: abstract_name.clone(),
        };
        let tried = tried(&pool, &target, sandbox).await;
        check(column, &tried);
        // The neighbour and the pool are as they were.
        let mut pids = Vec::new();
        for _ in 0..2 {
            pids.push(pool.call(process()).await.unwrap());
        }
        println!("{column}: {pids:?}");
        pool.shutdown().await;
    }
}

/// Attacks that the surroundings may stop without any sandbox: rights, settings of the kernel, the
/// file system.
fn depends_on_surroundings(name: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"));
    let may_lack = [
        "set an attribute of a file",
        "make a user namespace",
        "make a namespace by clone",
        "count events of the kernel",
        "handle page faults",
        "set up io_uring",
    ];
    let need_root = [
        "mount a file system",
        "enter a namespace",
        "load a program of BPF",
    ];
    may_lack.contains(&name) || !is_root && need_root.contains(&name)
}

fn check(column: usize, tried: &BTreeMap<String, Option<i32>>) {
    assert_eq!(tried.len(), ATTACKS.len());
    for attack in ATTACKS {
        let from = match attack.stopped {
            Stopped::Never => 4,
            Stopped::ByAll => 1,
            Stopped::ByReadOnly => 2,
            Stopped::ByCompute => 3,
        };
        let error = tried[attack.name];
        println!("{column} {:45} {error:?}", attack.name);
        if column >= from {
            let is_refusal = [Some(libc::EPERM), Some(libc::EACCES)].contains(&error);
            assert!(is_refusal, "{} in column {column}: {error:?}", attack.name);
        } else if !depends_on_surroundings(attack.name) {
            assert_eq!(error, None, "{} in column {column}", attack.name);
        }
    }
}
