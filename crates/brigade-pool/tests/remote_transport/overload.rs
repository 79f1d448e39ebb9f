//! Floods of connections.

use std::net::Ipv4Addr;
use std::time::Instant;

use brigade_testkit::{count, facts};
use tokio::net::TcpSocket;

use super::*;

/// A connection that sends nothing, from another address of this host.
async fn connect_from(last: u8, listener: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
    socket.connect(listener).await
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    run(async {
        let limits = ListenerLimits {
            waiting: 16,
            waiting_of_one: 4,
            grace: Duration::from_millis(50),
            ..ListenerLimits::default()
        };
        let mut listener = TestListener::open("tcp://127.0.0.1:0", &key(), limits).await;
        let address = listener.address();
        let mut silent = Vec::new();
        for last in 10..30 {
            for _ in 0..4 {
                silent.push(connect_from(last, address).await.unwrap());
            }
        }
        // All places are taken by others; each of them had its time.
        listener.accepts(&key()).await;
        listener.until(|counts| counts.too_many >= 80 - 16).await;
        drop(silent);
        listener.until(|counts| counts.total() == 80).await;
    });
}

#[test]
fn a_flood_from_one_address_does_not_keep_others_out_and_costs_a_bounded_amount() {
    run(async {
        let mut listener = TestListener::plain().await;
        let (first, descriptors) = (
            listener.accepts(&key()).await,
            facts::open_descriptors(std::process::id()),
        );
        let address = listener.address();
        let total = count(2_000, 10_000);
        let began = Instant::now();
        let flood = tokio::spawn(async move {
            let mut kept = std::collections::VecDeque::new();
            let mut came = 0;
            while came < total {
                let Ok(Ok(stream)) =
                    timeout(Duration::from_secs(5), connect_from(77, address)).await
                else {
                    continue;
                };
                came += 1;
                kept.push_back(stream);
                if kept.len() > 300 {
                    kept.pop_front();
                }
            }
        });
        let mut slowest = Duration::ZERO;
        while !flood.is_finished() {
            let began = Instant::now();
            listener.accepts(&key()).await;
            slowest = slowest.max(began.elapsed());
        }
        flood.await.unwrap();
        println!(
            "{total} connections in {:?}; who has the key waited at most {slowest:?}",
            began.elapsed()
        );
        let counts = listener
            .until(|counts| counts.total() >= total as u64)
            .await;
        assert_eq!(
            counts.too_many + counts.left + counts.slow,
            total as u64,
            "{counts:?}"
        );
        drop(first);
        let back = || facts::open_descriptors(std::process::id()) <= descriptors + 64;
        assert!(
            facts::wait_until(BOUND, back).is_some(),
            "descriptors are given back"
        );
    });
}
