use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;
use crate::facts::wait_until;

const BOUND: Duration = Duration::from_secs(20);

/// A connection through a proxy: the proxy, the near end, the far end.
fn through(faults: &Faults) -> (Proxy, TcpStream, TcpStream) {
    let far = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let proxy = Proxy::start(Target::Tcp(far.local_addr().unwrap()), 7).unwrap();
    proxy.set([Way::There], faults);
    let near = TcpStream::connect(proxy.address()).unwrap();
    let (far, _) = far.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(BOUND)).unwrap();
    }
    (proxy, near, far)
}

/// What comes out at the far end, and how it ends.
fn pass(faults: &Faults, bytes: &[u8]) -> (Vec<u8>, io::Result<usize>, Traffic) {
    let (proxy, mut near, mut far) = through(faults);
    // It may be cut under the writer's hands.
    near.write_all(bytes).ok();
    near.shutdown(std::net::Shutdown::Write).ok();
    let mut out = Vec::new();
    let end = far.read_to_end(&mut out);
    (out, end, proxy.traffic())
}

#[test]
fn without_faults_bytes_and_both_ends_pass() {
    let bytes = vec![7; 1 << 20];
    let (out, end, traffic) = pass(&Faults::default(), &bytes);
    assert_eq!((out.len(), end.unwrap()), (bytes.len(), bytes.len()));
    assert_eq!(
        (
            traffic.accepted,
            traffic.cut,
            traffic.garbled,
            traffic.bytes
        ),
        (1, 0, 0, [1 << 20, 0])
    );
    let (proxy, mut near, mut far) = through(&Faults::default());
    far.write_all(b"back").unwrap();
    drop(far);
    let mut back = String::new();
    near.read_to_string(&mut back).unwrap();
    drop(near);
    assert_eq!(back, "back");
    assert!(wait_until(BOUND, || proxy.traffic().open == 0).is_some());
}

#[test]
fn chunks_are_garbled_as_asked() {
    let bytes: Vec<u8> = (0..=255).collect();
    let all = 1000;
    let of = |faults: Faults| {
        pass(
            &Faults {
                chunk_bytes: 64,
                ..faults
            },
            &bytes,
        )
        .0
    };
    assert_eq!(
        of(Faults {
            drops: all,
            ..Faults::default()
        }),
        b""
    );
    assert_eq!(
        of(Faults {
            duplicates: all,
            ..Faults::default()
        })
        .len(),
        512
    );
    let flipped = of(Faults {
        flips: all,
        ..Faults::default()
    });
    let bits: u32 = flipped
        .iter()
        .zip(&bytes)
        .map(|(a, b)| (a ^ b).count_ones())
        .sum();
    assert!(flipped.len() == 256 && (1..=256).contains(&bits), "{bits}");
    let swapped = of(Faults {
        swaps: all,
        ..Faults::default()
    });
    assert!(swapped.len() == 256 && swapped != bytes);
}

#[test]
fn it_cuts_in_the_middle_in_both_ways() {
    let cut = |how| {
        pass(
            &Faults {
                cut_after: Some((100, how)),
                ..Faults::default()
            },
            &[7; 1000],
        )
    };
    let (out, end, traffic) = cut(Cut::Finish);
    assert_eq!((out.len(), end.unwrap(), traffic.cut), (100, 100, 1));
    let (out, end, _) = cut(Cut::Reset);
    assert!(out.len() <= 100 && end.unwrap_err().kind() == io::ErrorKind::ConnectionReset);
    for how in [Cut::Finish, Cut::Reset] {
        let (proxy, mut near, _far) = through(&Faults::default());
        proxy.cut(how);
        assert_eq!(
            near.read(&mut [0]).map_err(|error| error.kind()).ok(),
            (how == Cut::Finish).then_some(0)
        );
        assert_eq!((proxy.traffic().open, proxy.traffic().cut), (0, 1));
    }
}

#[test]
fn it_freezes_and_thaws() {
    let (proxy, mut near, mut far) = through(&Faults::default());
    proxy.freeze(BOTH);
    near.write_all(b"hello").unwrap();
    far.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert_eq!(
        far.read(&mut [0; 8]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    assert_eq!(proxy.traffic().open, 1);
    far.set_read_timeout(Some(BOUND)).unwrap();
    proxy.thaw();
    assert_eq!(far.read(&mut [0; 8]).unwrap(), 5);
}

#[test]
fn it_is_slow_where_asked_and_closed_to_new_ones() {
    let faults = Faults {
        bytes_per_second: Some(100),
        delay: Duration::from_millis(20)..Duration::from_millis(40),
        ..Faults::default()
    };
    let began = Instant::now();
    let (out, ..) = pass(&faults, &[7; 20]);
    assert!(out.len() == 20 && began.elapsed() > Duration::from_millis(100));
    let (proxy, ..) = through(&Faults::default());
    proxy.close_to_new(true);
    let mut refused = TcpStream::connect(proxy.address()).unwrap();
    assert!(!matches!(refused.read(&mut [0]), Ok(1)));
}
