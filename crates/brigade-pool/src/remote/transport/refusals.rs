//! Counts of refused connections, and one log line per origin and minute.
//!
//! Each listener owns one `Report`; [`Refusals`] is a copy of its counts since the listener began.
//!
//! Invariants: each refused connection is counted once, under one reason. The memory is bounded: at
//! most 1024 origins are remembered and all others share one entry, so a flood from many addresses
//! can fill neither the memory nor the log. A log line gives the number of refusals that were not
//! logged.
//!
//! It does not block or slow down any peer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::peer::{Peer, PeerOrigin};
use crate::error::Error;

/// One line per origin in this time.
const INTERVAL: Duration = Duration::from_secs(60);
/// Origins that are remembered; when there are more, the rest share one line.
const ORIGINS_MAX: usize = 1024;
/// A full table is not searched for each new origin.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// How many connections a listener refused, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusals {
    /// They did not speak Brigade's handshake: scanners, browsers, noise.
    pub unknown_protocol: u64,
    /// Another version of the handshake.
    pub versions: u64,
    /// They do not have the key, or use one where the listener has none.
    pub keys: u64,
    /// The TLS handshake failed: no TLS, an old version of it, or an invalid certificate.
    pub tls: u64,
    /// The certificate is valid and none of its names is allowed
    /// ([`Credentials::allow_names`](super::Credentials::allow_names)).
    pub names: u64,
    /// Another user of this host, at a Unix socket.
    pub users: u64,
    /// They took longer than 5 seconds.
    pub slow: u64,
    /// They left before they had authenticated, or the connection broke.
    pub left: u64,
    /// They were closed because too many handshakes were under way.
    pub too_many: u64,
    /// How often accepting paused because no descriptor or no memory was left. Not connections.
    pub pauses: u64,
}

impl Refusals {
    /// All connections that were refused.
    pub fn total(&self) -> u64 {
        let Self {
            unknown_protocol,
            versions,
            keys,
            tls,
            names,
            users,
            slow,
            left,
            too_many,
            pauses: _,
        } = self;
        unknown_protocol + versions + keys + tls + names + users + slow + left + too_many
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            unknown_protocol: self.unknown_protocol + other.unknown_protocol,
            versions: self.versions + other.versions,
            keys: self.keys + other.keys,
            tls: self.tls + other.tls,
            names: self.names + other.names,
            users: self.users + other.users,
            slow: self.slow + other.slow,
            left: self.left + other.left,
            too_many: self.too_many + other.too_many,
            pauses: self.pauses + other.pauses,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    UnknownProtocol,
    Version,
    Key,
    Tls,
    Name,
    User,
    Slow,
    Closed,
    TooMany,
}

/// The refusals of one listener: counts, and what was logged.
#[derive(Default)]
pub(super) struct Report {
    counts: Refusals,
    logged: HashMap<Option<PeerOrigin>, LoggedOrigin>,
    /// The table was full then, and what was old in it thrown out.
    purged: Option<Instant>,
}

struct LoggedOrigin {
    at: Instant,
    /// Refused since then.
    more: u64,
}

impl Report {
    pub(super) fn counts(&self) -> Refusals {
        self.counts
    }

    pub(super) fn pause(&mut self) {
        self.counts.pauses += 1;
    }

    pub(super) fn refused(&mut self, reason: Reason, peer: &Peer, error: &Error, now: Instant) {
        let count = match reason {
            Reason::UnknownProtocol => &mut self.counts.unknown_protocol,
            Reason::Version => &mut self.counts.versions,
            Reason::Key => &mut self.counts.keys,
            Reason::Tls => &mut self.counts.tls,
            Reason::Name => &mut self.counts.names,
            Reason::User => &mut self.counts.users,
            Reason::Slow => &mut self.counts.slow,
            Reason::Closed => &mut self.counts.left,
            Reason::TooMany => &mut self.counts.too_many,
        };
        *count += 1;
        if let Some(more) = self.due(peer.origin(), now) {
            tracing::warn!(%peer, %error, more, "refused a connection");
        }
    }

    /// Whether to log this refusal, and how many were not logged since the last line.
    fn due(&mut self, origin: PeerOrigin, now: Instant) -> Option<u64> {
        let is_full = self.logged.len() >= ORIGINS_MAX && !self.logged.contains_key(&Some(origin));
        if is_full
            && self
                .purged
                .is_none_or(|purged| purged + PURGE_INTERVAL <= now)
        {
            self.purged = Some(now);
            self.logged.retain(|_, logged| logged.at + INTERVAL > now);
        }
        let is_known = self.logged.contains_key(&Some(origin)) || self.logged.len() < ORIGINS_MAX;
        let logged = self
            .logged
            .entry(is_known.then_some(origin))
            .or_insert_with(|| LoggedOrigin {
                at: now - INTERVAL,
                more: 0,
            });
        if logged.at + INTERVAL > now {
            logged.more += 1;
            return None;
        }
        logged.at = now;
        Some(std::mem::take(&mut logged.more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: u32) -> PeerOrigin {
        PeerOrigin::V4(number.to_be_bytes())
    }

    #[test]
    fn one_line_per_origin_and_interval() {
        let (mut report, start) = (Report::default(), Instant::now() + INTERVAL);
        assert_eq!(report.due(origin(1), start), Some(0));
        assert_eq!(report.due(origin(1), start), None);
        assert_eq!(report.due(origin(1), start), None);
        assert_eq!(report.due(origin(2), start), Some(0));
        assert_eq!(report.due(origin(1), start + INTERVAL), Some(2));
    }

    #[test]
    fn the_table_is_bounded_and_the_rest_share_a_line() {
        let (mut report, start) = (Report::default(), Instant::now() + INTERVAL);
        let lines = (0..100_000)
            .filter(|number| report.due(origin(*number), start).is_some())
            .count();
        assert_eq!(lines, ORIGINS_MAX + 1);
        assert_eq!(report.logged.len(), ORIGINS_MAX + 1);
        assert_eq!(
            report.due(origin(200_000), start + INTERVAL),
            Some(0),
            "there is room again"
        );
        assert_eq!(report.logged.len(), 1);
    }
}
