//! [`FailedLogins`]: wrong credentials per peer, so that guessing is slow and does not fill the log.
//!
//! A token has 256 random bits and cannot be guessed, so the right one is always accepted: another
//! program behind the same address does not lock it out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong credentials of one peer in a window; further ones are answered with 429.
const FAILURES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Peers that are remembered; when there are more, the ones that came first are forgotten.
const PEERS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct FailedLogins(Mutex<HashMap<Option<IpAddr>, Window>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    count: u32,
}

impl FailedLogins {
    /// Notes a wrong credential. If there were too many, in how many seconds the next may come.
    pub(crate) fn note(&self, peer: Option<IpAddr>) -> Option<u64> {
        let now = Instant::now();
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX && !peers.contains_key(&peer) {
            peers.retain(|_, window| now.duration_since(window.began) < WINDOW);
            if peers.len() >= PEERS_MAX {
                peers.clear();
            }
        }
        let window = peers.entry(peer).or_insert(Window {
            began: now,
            count: 0,
        });
        if now.duration_since(window.began) >= WINDOW {
            *window = Window {
                began: now,
                count: 0,
            };
        }
        window.count = window.count.saturating_add(1);
        let left = WINDOW.saturating_sub(now.duration_since(window.began));
        (window.count > FAILURES_MAX).then(|| left.as_secs() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_with_many_failures_waits_and_others_do_not() {
        let failures = FailedLogins::default();
        let peer = Some(IpAddr::from([192, 0, 2, 1]));
        for _ in 0..FAILURES_MAX {
            assert_eq!(failures.note(peer), None);
        }
        assert!(failures.note(peer).is_some_and(|seconds| seconds <= 61));
        assert_eq!(failures.note(Some(IpAddr::from([192, 0, 2, 2]))), None);
        assert_eq!(failures.note(None), None);
    }

    #[test]
    fn the_number_of_peers_is_bounded() {
        let failures = FailedLogins::default();
        for number in 0..30_000_u32 {
            failures.note(Some(IpAddr::from(number.to_be_bytes())));
        }
        assert!(failures.0.lock().unwrap().len() <= PEERS_MAX);
    }
}
