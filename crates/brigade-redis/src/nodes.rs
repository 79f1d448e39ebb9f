//! Which server has a key, and requests to it.
//!
//! With one server, or sentinels, that is always the same one. A cluster divides all keys into
//! 16384 slots and says who has which; a node that is asked for a slot of another's says whose it
//! is now. What a server refused for now, or sent elsewhere, was not done and is asked again; what
//! broke on the way is not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Pipeline, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::fault::RedisFault;
use super::line::{Line, Renewed};
use super::reach::{Reach, Target};
use super::url::{Address, ServerLayout};
use crate::error::ErrorKind;
use crate::sync::lock;

/// A request is asked so often, before the last refusal is what its caller gets.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);
/// Then the next node is asked for the slots.
const SLOTS_TIMEOUT: Duration = Duration::from_secs(1);
const SLOTS: u16 = 16384;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Ask,
    /// Waits for replicas, and so does all that is behind it.
    Wait,
}

pub(super) struct Nodes {
    reach: Arc<Reach>,
    /// Bounded by the addresses that a cluster has.
    lines: Mutex<HashMap<(Target, Purpose), Arc<Line>>>,
    slots: Renewed<Arc<Mutex<Slots>>>,
    /// Counts changes of who has what.
    moved: watch::Sender<u64>,
}

/// Who has which slot.
struct Slots {
    addresses: Vec<Address>,
    /// Per slot its place in the addresses.
    owners: Box<[Option<u16>]>,
}

impl Nodes {
    pub(super) fn new(reach: Arc<Reach>) -> Self {
        Self {
            reach,
            lines: Mutex::default(),
            slots: Renewed::default(),
            moved: watch::Sender::default(),
        }
    }

    pub(super) fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    /// Changes whenever a key may have got another server.
    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Who has a key.
    pub(super) async fn target_of(&self, key: &[u8]) -> Result<Target, RedisFault> {
        self.locate(key).await.map(|(_, target)| target)
    }

    /// Who has a key, as far as that is known without asking.
    pub(super) fn known_target_of(&self, key: &[u8]) -> Option<Target> {
        match &self.reach.config.layout {
            ServerLayout::One(address) => Some(Target::At(address.clone())),
            ServerLayout::Sentinel { .. } => Some(Target::Primary),
            ServerLayout::Cluster(_) => {
                let slots = self.slots.peek()?;
                let slots = lock(&slots);
                let place = slots.owners[usize::from(slot_of(key))]?;
                Some(Target::At(slots.addresses[usize::from(place)].clone()))
            }
        }
    }

    /// Whether queues may be on different servers.
    pub(super) fn are_many(&self) -> bool {
        matches!(self.reach.config.layout, ServerLayout::Cluster(_))
    }

    /// All servers that have keys.
    pub(super) async fn targets(&self) -> Result<Vec<Target>, RedisFault> {
        match &self.reach.config.layout {
            ServerLayout::One(address) => Ok(vec![Target::At(address.clone())]),
            ServerLayout::Sentinel { .. } => Ok(vec![Target::Primary]),
            ServerLayout::Cluster(_) => {
                let (_, slots) = self.slots().await?;
                let slots = lock(&slots);
                let mut used: Vec<u16> = slots.owners.iter().copied().flatten().collect();
                used.sort_unstable();
                used.dedup();
                Ok(used
                    .into_iter()
                    .map(|place| Target::At(slots.addresses[usize::from(place)].clone()))
                    .collect())
            }
        }
    }

    /// The pipeline's answers from the server of its keys, which all must be of one slot.
    pub(super) async fn send(
        &self,
        key: &[u8],
        pipeline: &Pipeline,
        purpose: Purpose,
    ) -> Result<Vec<Value>, RedisFault> {
        let mut tried = 0;
        let mut asked_aside = None;
        loop {
            tried += 1;
            let answered = match asked_aside.take() {
                Some(target) => self.ask_aside(target, pipeline, purpose).await,
                None => self.send_once(key, pipeline, purpose).await,
            };
            let refusal = match answered {
                Ok(answers) => match refusal_in(&answers, purpose) {
                    None => return Ok(answers),
                    Some(refusal) => refusal,
                },
                Err(fault) if fault.is_refused_for_now() => fault,
                Err(fault) => return Err(fault),
            };
            if tried == TRIES {
                return Err(refusal);
            }
            match redirection(&refusal) {
                Some(Redirection::Moved(slot, address)) => self.move_slot(slot, address).await,
                Some(Redirection::Ask(address)) => asked_aside = Some(Target::At(address)),
                None => {
                    if refusal.source.kind() == redis::ErrorKind::Server(ServerErrorKind::Moved) {
                        // To a node whose address the one that answered does not know.
                        self.forget_slots().await;
                    }
                    sleep(PAUSE * tried).await;
                }
            }
        }
    }

    async fn send_once(
        &self,
        key: &[u8],
        pipeline: &Pipeline,
        purpose: Purpose,
    ) -> Result<Vec<Value>, RedisFault> {
        let (number, target) = self.locate(key).await?;
        let answered = self.line(target, purpose).send(pipeline).await;
        if answered.as_ref().is_err_and(RedisFault::ends_connection) {
            // Its replica may have its slots by now.
            self.forget(number);
        }
        answered
    }

    /// The pipeline's answers from this server, whatever keys it has.
    pub(super) async fn send_to(
        &self,
        target: Target,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, RedisFault> {
        self.line(target, Purpose::Ask).send(pipeline).await
    }

    /// A slot on its way to another node: that one answers only who says that he was sent.
    async fn ask_aside(
        &self,
        target: Target,
        pipeline: &Pipeline,
        purpose: Purpose,
    ) -> Result<Vec<Value>, RedisFault> {
        let mut both = Pipeline::with_capacity(2 * pipeline.len());
        for command in pipeline.cmd_iter() {
            both.cmd("ASKING").add_command(command.clone());
        }
        let answers = self.line(target, purpose).send(&both).await?;
        Ok(answers.into_iter().skip(1).step_by(2).collect())
    }

    /// Whether the server that has a key is known to be away, so that a caller that can do without
    /// it need not wait for it. It is tried again in the background.
    pub(super) async fn is_away(&self, key: &[u8]) -> bool {
        if !matches!(self.reach.config.layout, ServerLayout::Cluster(_)) {
            return false;
        }
        let Ok(target) = self.target_of(key).await else {
            return true;
        };
        let line = self.line(target, Purpose::Ask);
        if line.is_to_be_tried() {
            let line = Arc::clone(&line);
            self.reach.spawn(async move { line.try_again().await });
        }
        line.is_away()
    }

    fn line(&self, target: Target, purpose: Purpose) -> Arc<Line> {
        let make = || Arc::new(Line::new(Arc::clone(&self.reach), target.clone()));
        Arc::clone(
            lock(&self.lines)
                .entry((target.clone(), purpose))
                .or_insert_with(make),
        )
    }

    async fn locate(&self, key: &[u8]) -> Result<(u64, Target), RedisFault> {
        match &self.reach.config.layout {
            ServerLayout::One(address) => Ok((0, Target::At(address.clone()))),
            ServerLayout::Sentinel { .. } => Ok((0, Target::Primary)),
            ServerLayout::Cluster(_) => {
                let (number, slots) = self.slots().await?;
                let slots = lock(&slots);
                let owner = slots.owners[usize::from(slot_of(key))]
                    .map(|place| slots.addresses[usize::from(place)].clone());
                let no_node = (redis::ErrorKind::Client, "no node has this slot");
                let owner = owner.ok_or_else(|| {
                    self.slots.forget(number);
                    RedisFault::hinted(
                        ErrorKind::Unreachable,
                        "no node of the cluster has this queue",
                        no_node,
                    )
                });
                Ok((number, Target::At(owner?)))
            }
        }
    }

    async fn slots(&self) -> Result<(u64, Arc<Mutex<Slots>>), RedisFault> {
        self.slots
            .get(|| ask_for_slots(Arc::clone(&self.reach), self.known()))
            .await
    }

    fn forget(&self, number: u64) {
        if matches!(self.reach.config.layout, ServerLayout::Cluster(_)) {
            self.slots.forget(number);
            self.moved.send_modify(|count| *count += 1);
        }
    }

    /// Nodes that were asked before, and those of the URL.
    fn known(&self) -> Vec<Address> {
        let ServerLayout::Cluster(named) = &self.reach.config.layout else {
            return Vec::new();
        };
        let mut known = named.clone();
        for (target, _) in lock(&self.lines).keys() {
            if let Target::At(address) = target
                && !known.contains(address)
            {
                known.push(address.clone());
            }
        }
        known
    }

    async fn forget_slots(&self) {
        if let Ok((number, _)) = self.slots().await {
            self.forget(number);
        }
    }

    async fn move_slot(&self, slot: u16, address: Address) {
        let Ok((_, slots)) = self.slots().await else {
            return;
        };
        lock(&slots).set(slot, address);
        self.moved.send_modify(|count| *count += 1);
    }
}

impl Slots {
    fn set(&mut self, slot: u16, address: Address) {
        let place = self
            .addresses
            .iter()
            .position(|known| *known == address)
            .unwrap_or_else(|| {
                self.addresses.push(address);
                self.addresses.len() - 1
            });
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = u16::try_from(place).ok();
        }
    }

    /// What `CLUSTER SLOTS` answers: ranges, each with its primary first.
    fn read(answer: Value, asked: &Address) -> Option<Self> {
        let mut slots = Self {
            addresses: Vec::new(),
            owners: vec![None; usize::from(SLOTS)].into(),
        };
        let Value::Array(ranges) = answer else {
            return None;
        };
        for range in ranges {
            let (first, last, primary): (u16, u16, Vec<Value>) = match range {
                Value::Array(range) => {
                    let mut range = range.into_iter();
                    let mut number = || {
                        range
                            .next()
                            .and_then(|value| redis::from_redis_value(value).ok())
                    };
                    let (first, last) = (number()?, number()?);
                    (first, last, redis::from_redis_value(range.next()?).ok()?)
                }
                _ => return None,
            };
            let mut primary = primary.into_iter();
            let host: Option<String> = redis::from_redis_value(primary.next()?).ok()?;
            let port: u16 = redis::from_redis_value(primary.next()?).ok()?;
            let address = address(host.as_deref().unwrap_or(""), port, asked);
            (first..=last.min(SLOTS - 1)).for_each(|slot| slots.set(slot, address.clone()));
        }
        Some(slots)
    }
}

/// A node that does not know its own address leaves it out: it is the one that was asked.
fn address(host: &str, port: u16, asked: &Address) -> Address {
    match (host, asked) {
        ("" | "?", Address::Tcp(host, _)) => Address::Tcp(host.clone(), port),
        _ => Address::Tcp(host.into(), port),
    }
}

/// Asks one node after the other.
async fn ask_for_slots(
    reach: Arc<Reach>,
    known: Vec<Address>,
) -> Result<Arc<Mutex<Slots>>, RedisFault> {
    let mut fault = RedisFault::timeout();
    for asked in known {
        let asking = async {
            let connection = reach.open(&Target::At(asked.clone()), None).await?;
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            connection.ask::<Value>(command).await
        };
        match timeout(SLOTS_TIMEOUT, asking).await {
            Ok(Ok(answer)) => match Slots::read(answer, &asked) {
                Some(slots) if slots.owners.iter().any(Option::is_some) => {
                    return Ok(Arc::new(Mutex::new(slots)));
                }
                _ => {
                    let hint =
                        "the cluster has no slots yet; create it with redis-cli --cluster create";
                    fault = RedisFault::hinted(
                        ErrorKind::Unreachable,
                        hint,
                        (redis::ErrorKind::Client, "no slots"),
                    );
                }
            },
            Ok(Err(error))
                if error.source.kind()
                    == redis::ErrorKind::Server(ServerErrorKind::ResponseError) =>
            {
                return Err(RedisFault::hinted(
                    ErrorKind::BadOption,
                    "the server is no node of a cluster; write redis://",
                    error.source,
                ));
            }
            // It was not asked to change anything.
            Ok(Err(error)) => fault = error.into_unsent(),
            Err(_) => {}
        }
    }
    Err(fault)
}

enum Redirection {
    Moved(u16, Address),
    Ask(Address),
}

fn redirection(fault: &RedisFault) -> Option<Redirection> {
    let (node, slot) = fault.source.redirect_node()?;
    let (host, port) = node.rsplit_once(':').filter(|(host, _)| !host.is_empty())?;
    let address = Address::Tcp(host.into(), port.parse().ok()?);
    match fault.source.kind() {
        redis::ErrorKind::Server(ServerErrorKind::Moved) => Some(Redirection::Moved(slot, address)),
        _ => Some(Redirection::Ask(address)),
    }
}

/// Why the request is to be asked again, perhaps elsewhere. The keys of a pipeline are of one slot,
/// so that the first answer speaks for all, but for a slot on its way.
fn refusal_in(answers: &[Value], purpose: Purpose) -> Option<RedisFault> {
    // Behind a request that was carried out, only the replicas have still to say something.
    let speak = if purpose == Purpose::Wait {
        answers.len().min(1)
    } else {
        answers.len()
    };
    answers[..speak].iter().find_map(|answer| {
        let Value::ServerError(error) = answer else {
            return None;
        };
        let fault = RedisFault::sent(error.clone());
        (fault.is_refused_for_now() || fault.source.redirect_node().is_some()).then_some(fault)
    })
}

/// The slot of a key: of what stands in its first braces, if anything does.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let braced = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(braced.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM, which the specification of clusters names.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"brigade:{foo}:job:1"), 12182);
        assert_eq!(slot_of(b"{}foo"), crc16(b"{}foo") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}"), crc16(b"{bar") % SLOTS);
    }
}
