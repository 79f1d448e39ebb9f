//! Which holders of jobs are connected to the server.
//!
//! A process that holds jobs subscribes to a channel of its name, on the connection that hears of
//! changes. Its leases then carry the name with [`ANNOUNCED`] behind it, and every other consumer
//! can ask the server whether anything listens to that channel. When a process dies, its host
//! closes the connection at once, wherever that host is.
//!
//! A connection may also end while its process lives, so both sides count. A holder whose
//! connection was ended, and which cannot get it back within [`CUT_OFF_AFTER`], stops its attempts.
//! Others take its jobs when it was absent at each look for [`ABSENT_FOR`], which is longer by the
//! time that a stop takes. While the server itself is down, as it refuses connections, no other
//! can take anything and the holder's attempts go on. A connection that only became silent is not
//! ended for the server either: then the lease ends by its time, as everywhere.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use redis::{Value, cmd, pipe};
use tokio::sync::watch;
use tokio::time::timeout;

use super::fault::RedisFault;
use super::keys::key;
use super::nodes::Nodes;
use super::reach::Target;
use crate::clock::BootTime;
use crate::sync::lock;
use brigade_runtime::owner::own_name;

/// Behind the name of a holder that announced itself.
pub(super) const ANNOUNCED: char = '+';
/// A holder whose connection was ended stops its attempts after this time without one.
const CUT_OFF_AFTER: Duration = Duration::from_secs(5);
/// Others take its jobs after this time.
const ABSENT_FOR: Duration = Duration::from_secs(10);
/// Looks that are further apart than this say nothing of the time between them.
const LOOKS_APART_MAX: Duration = Duration::from_secs(6);
/// Holders that are remembered as absent; others are found again.
const ABSENT_MAX: usize = 10_000;

/// How this process stands with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Announced,
    /// Since its connection was ended, or since the server was last known to be down.
    Ended(BootTime),
    /// The connection became silent, and was given up here.
    Silent,
}

/// When a holder was absent first, and last.
#[derive(Clone, Copy, Debug)]
struct AbsentHolder {
    first: BootTime,
    last: BootTime,
}

/// For so long the first lease of a queue waits for this process to be announced.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct HolderPresence {
    /// Servers at which this process was announced, or where it was tried in vain.
    tried: watch::Sender<HashSet<Target>>,
    /// Bounded by the addresses that a cluster has. A server is in here once this process has
    /// announced itself there.
    standings: Mutex<HashMap<Target, Standing>>,
    absent: Mutex<HashMap<(Target, Box<str>), AbsentHolder>>,
}

/// The name of this process for people and for the line of free consumers: host and process id.
pub(super) fn holder() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let system = rustix::system::uname();
        format!(
            "{}:{}",
            system.nodename().to_string_lossy(),
            std::process::id()
        )
    })
}

/// The name of a holder without the mark, and whether it had one.
pub(super) fn read_name(holder: &str) -> (&str, bool) {
    match holder.strip_suffix(ANNOUNCED) {
        Some(name) => (name, true),
        None => (holder, false),
    }
}

pub(super) fn channel(name: &str) -> String {
    format!("brigade:holder:{name}")
}

/// Whether no other process on any host can have this name: each part of it could be read.
fn is_distinct(name: &str) -> bool {
    let parts: Vec<&str> = name.splitn(6, '-').collect();
    parts.len() == 6 && parts.iter().all(|part| !part.is_empty())
}

impl HolderPresence {
    /// Whether this process should announce itself.
    pub(super) fn is_possible() -> bool {
        is_distinct(own_name())
    }

    pub(super) fn note_announced(&self, target: &Target) {
        lock(&self.standings).insert(target.clone(), Standing::Announced);
        self.note_tried(target);
    }

    /// There will be no announcement soon, or there is one.
    pub(super) fn note_tried(&self, target: &Target) {
        self.tried
            .send_if_modified(|tried| tried.insert(target.clone()));
    }

    /// Waits until this process was announced, or that was tried, but not for long. So the first
    /// leases of a process have its name with the mark.
    pub(super) async fn wait_until_tried(&self, target: &Target) {
        let is_tried = |tried: &HashSet<Target>| tried.contains(target);
        if !Self::is_possible() || is_tried(&self.tried.borrow()) {
            return;
        }
        let mut tried = self.tried.subscribe();
        drop(timeout(ANNOUNCED_WITHIN, tried.wait_for(is_tried)).await);
        self.note_tried(target);
    }

    pub(super) fn is_announced(&self, target: &Target) -> bool {
        lock(&self.standings).get(target) == Some(&Standing::Announced)
    }

    /// The connection was ended, by the server or on the way.
    pub(super) fn note_end(&self, target: &Target) {
        self.change(target, |standing| {
            if standing == Standing::Announced {
                Standing::Ended(BootTime::now())
            } else {
                standing
            }
        });
    }

    /// The connection failed, or could not be opened again.
    pub(super) fn note_fault(&self, target: &Target, fault: &RedisFault) {
        let is_down = fault.is_refusal();
        self.change(target, |standing| match standing {
            Standing::Announced if fault.source.is_timeout() => Standing::Silent,
            Standing::Announced => Standing::Ended(BootTime::now()),
            Standing::Ended(_) | Standing::Silent if is_down => Standing::Ended(BootTime::now()),
            same => same,
        });
    }

    fn change(&self, target: &Target, next: impl FnOnce(Standing) -> Standing) {
        if let Some(standing) = lock(&self.standings).get_mut(target) {
            *standing = next(*standing);
        }
    }

    /// Whether others may be taking the jobs that this process holds there.
    pub(super) fn is_cut_off(&self, target: &Target) -> bool {
        match lock(&self.standings).get(target) {
            Some(Standing::Ended(when)) => BootTime::now().since(*when) >= CUT_OFF_AFTER,
            _ => false,
        }
    }

    /// This process's name for its leases at a server.
    pub(super) fn name_at(&self, target: &Target) -> String {
        let mut name = own_name().to_owned();
        if self.is_announced(target) {
            name.push(ANNOUNCED);
        }
        name
    }

    /// Of these holders, by queue, those that have been absent for long enough.
    pub(super) async fn absent(
        &self,
        nodes: &Nodes,
        holders: &[(Box<str>, Box<str>)],
    ) -> Result<Vec<(Box<str>, Box<str>)>, RedisFault> {
        let mut of: HashMap<Target, Vec<usize>> = HashMap::new();
        for (place, (queue, _)) in holders.iter().enumerate() {
            let target = nodes.target_of(key(queue, "").as_bytes()).await?;
            of.entry(target).or_default().push(place);
        }
        let mut absent = Vec::new();
        for (target, places) in of {
            let mut ask = cmd("PUBSUB");
            ask.arg("NUMSUB");
            for place in &places {
                ask.arg(channel(read_name(&holders[*place].1).0));
            }
            let mut pipeline = pipe();
            pipeline.add_command(ask);
            let answers = nodes.send_to(target.clone(), &pipeline).await?;
            let answer = answers.into_iter().next().unwrap_or(Value::Nil);
            let counts: Vec<(String, u64)> = answer
                .extract_error()
                .and_then(|answer| Ok(redis::from_redis_value(answer)?))
                .map_err(RedisFault::sent)?;
            let now = BootTime::now();
            for (place, (_, count)) in places.into_iter().zip(counts) {
                if self.note_look(&target, &holders[place].1, count == 0, now) {
                    absent.push(holders[place].clone());
                }
            }
        }
        Ok(absent)
    }

    /// Whether a holder has been absent for long enough, with this look.
    fn note_look(&self, target: &Target, holder: &str, is_absent: bool, now: BootTime) -> bool {
        let mut absent = lock(&self.absent);
        let of = (target.clone(), Box::from(holder));
        if !is_absent {
            absent.remove(&of);
            return false;
        }
        if absent.len() >= ABSENT_MAX {
            absent.retain(|_, absent| now.since(absent.last) <= LOOKS_APART_MAX);
        }
        if absent.len() >= ABSENT_MAX {
            return false;
        }
        let since = absent.entry(of).or_insert(AbsentHolder {
            first: now,
            last: now,
        });
        if now.since(since.last) > LOOKS_APART_MAX {
            since.first = now;
        }
        since.last = now;
        now.since(since.first) >= ABSENT_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::super::url::Address;
    use super::*;

    fn target() -> Target {
        Target::At(Address::Tcp("host".into(), 1))
    }

    #[test]
    fn only_a_holder_that_was_absent_at_each_look_for_long_enough_is_gone() {
        let (presence, begin) = (HolderPresence::default(), BootTime::now());
        let look = |at: u64, is_absent: bool| {
            let now = begin.later(Duration::from_secs(at));
            presence.note_look(&target(), "a+", is_absent, now)
        };
        // Back in between.
        assert!(!look(0, true) && !look(5, true) && !look(9, false));
        assert!(!look(10, true) && !look(15, true) && look(20, true));
        // Nothing was looked at for a while.
        assert!(!look(40, true) && !look(46, true) && look(50, true));
    }

    #[test]
    fn a_holder_is_cut_off_by_an_end_and_not_by_silence_nor_while_the_server_is_down() {
        let presence = HolderPresence::default();
        let standing = || *lock(&presence.standings).get(&target()).unwrap();
        presence.note_announced(&target());
        presence.note_fault(&target(), &RedisFault::timeout());
        assert_eq!(standing(), Standing::Silent);
        presence.note_announced(&target());
        presence.note_end(&target());
        assert!(matches!(standing(), Standing::Ended(_)) && !presence.is_cut_off(&target()));
        let long_ago = Standing::Ended(BootTime::default());
        lock(&presence.standings).insert(target(), long_ago);
        presence.note_fault(&target(), &RedisFault::timeout());
        assert!(presence.is_cut_off(&target()));
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        presence.note_fault(&target(), &RedisFault::unsent(refused));
        assert!(!presence.is_cut_off(&target()));
    }

    #[test]
    fn a_name_of_which_a_part_is_not_known_is_not_announced() {
        let whole = "1-2-3-4-5-web-1";
        assert!(is_distinct(whole) && !is_distinct("1--3-4-5-web-1") && !is_distinct("1-2-3-4-5"));
    }
}
