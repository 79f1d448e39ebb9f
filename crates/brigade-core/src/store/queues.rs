//! The queues of a lease request, and the order in which a store looks through them.
//!
//! A consumer may serve 10,000 queues and make many requests a second. So the names are made once
//! ([`QueueSet`]) and shared; a request only has the place in them to start from. A store that
//! knows which queues have jobs need not go through all of them: [`Queues::rank`] gives, in
//! constant time, the place of a queue in the order of the request.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// The queues that a consumer serves: those in strict order, then those that take turns. Each name
/// is there once.
#[derive(Debug)]
pub struct QueueSet {
    names: Vec<Box<str>>,
    places: HashMap<Box<str>, usize>,
    strict: usize,
    number: u64,
}

impl QueueSet {
    /// A set of these names. A name that comes twice keeps its first place.
    pub fn new(
        strict: impl IntoIterator<Item = Box<str>>,
        turns: impl IntoIterator<Item = Box<str>>,
    ) -> Self {
        let mut set = Self {
            names: Vec::new(),
            places: HashMap::new(),
            strict: 0,
            number: 0,
        };
        strict.into_iter().for_each(|name| set.add(name));
        set.strict = set.names.len();
        turns.into_iter().for_each(|name| set.add(name));
        set
    }

    fn add(&mut self, name: Box<str>) {
        if !self.places.contains_key(&name) {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            self.number = self.number.wrapping_add(hasher.finish());
            self.places.insert(name.clone(), self.names.len());
            self.names.push(name);
        }
    }

    /// Every name, the strict ones first.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Where a queue stands among the names.
    pub fn place(&self, queue: &str) -> Option<usize> {
        self.places.get(queue).copied()
    }

    /// How many of the names are in strict order.
    pub fn strict(&self) -> usize {
        self.strict
    }
}

/// The queues of one request, in its order. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queues {
    set: Arc<QueueSet>,
    order: TurnOrder,
}

/// In which order those that take turns are looked through.
#[derive(Clone, Debug)]
enum TurnOrder {
    /// As they are named, from this place on and once round.
    From(usize),
    /// Names by rank, and ranks by name; both of all queues.
    Sorted(Arc<[usize]>, Arc<[usize]>),
}

impl Queues {
    /// One queue alone.
    pub fn one(name: impl Into<Box<str>>) -> Self {
        Self::from(&Arc::new(QueueSet::new([name.into()], [])), 0)
    }

    /// Those that take turns begin with the one at this place among all names, and go once round.
    pub fn from(set: &Arc<QueueSet>, place: usize) -> Self {
        let turns = set.strict..set.names.len();
        let place = if turns.contains(&place) {
            place
        } else {
            turns.start
        };
        Self {
            set: Arc::clone(set),
            order: TurnOrder::From(place),
        }
    }

    /// Those that take turns come in the order of these places among all names: each of them once.
    pub fn sorted(set: &Arc<QueueSet>, turns: impl IntoIterator<Item = usize>) -> Self {
        let order: Vec<usize> = (0..set.strict).chain(turns).collect();
        let mut ranks = vec![0; set.names.len()];
        order
            .iter()
            .enumerate()
            .for_each(|(rank, place)| ranks[*place] = rank);
        Self {
            set: Arc::clone(set),
            order: TurnOrder::Sorted(order.into(), ranks.into()),
        }
    }

    /// All queues of the consumer; the same set in each of its requests while none is paused or
    /// resumed.
    pub fn set(&self) -> &Arc<QueueSet> {
        &self.set
    }

    /// How many queues there are.
    pub fn len(&self) -> usize {
        self.set.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.set.names.is_empty()
    }

    /// Every queue, in no particular order; the same slice in each request of a consumer while none
    /// is paused or resumed.
    pub fn names(&self) -> &[Box<str>] {
        &self.set.names
    }

    /// A hash of the names, whatever their order: the same in each process of this build.
    pub fn number(&self) -> u64 {
        self.set.number
    }

    /// Every queue, in the order in which they are to be looked through.
    pub fn iter(&self) -> impl Iterator<Item = &Box<str>> {
        (0..self.len()).map(|rank| &self.set.names[self.place(rank)])
    }

    /// The place of a queue in the order of [`iter`](Queues::iter); `None` if it is not requested.
    pub fn rank(&self, queue: &str) -> Option<usize> {
        let place = self.set.place(queue)?;
        Some(match &self.order {
            _ if place < self.set.strict => place,
            TurnOrder::Sorted(_, ranks) => ranks[place],
            TurnOrder::From(from) if place >= *from => self.set.strict + place - from,
            TurnOrder::From(from) => self.len() - (from - place),
        })
    }

    /// The place among all names of the one with this rank.
    pub fn place(&self, rank: usize) -> usize {
        let (strict, turns) = (self.set.strict, self.len() - self.set.strict);
        match &self.order {
            _ if rank < strict => rank,
            TurnOrder::Sorted(order, _) => order[rank],
            TurnOrder::From(from) => strict + (from - strict + rank - strict) % turns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Arc<QueueSet> {
        let names = |text: &str| {
            text.chars()
                .map(|c| Box::from(c.to_string()))
                .collect::<Vec<Box<str>>>()
        };
        Arc::new(QueueSet::new(names("xyx"), names("abycd")))
    }

    fn order(queues: &Queues) -> String {
        for (rank, name) in queues.iter().enumerate() {
            assert_eq!(queues.rank(name), Some(rank));
            assert_eq!(*queues.names()[queues.place(rank)], **name);
        }
        queues.iter().map(|name| &**name).collect()
    }

    #[test]
    fn strict_ones_come_first_and_turns_begin_anywhere() {
        let set = set();
        assert_eq!(order(&Queues::from(&set, 0)), "xyabcd");
        assert_eq!(order(&Queues::from(&set, 4)), "xycdab");
        assert_eq!(order(&Queues::from(&set, 5)), "xydabc");
        assert_eq!(order(&Queues::from(&set, 9)), "xyabcd");
        assert_eq!(order(&Queues::sorted(&set, [3, 5, 2, 4])), "xybdac");
        assert_eq!(Queues::from(&set, 2).rank("elsewhere"), None);
        assert_eq!(order(&Queues::one("q")), "q");
    }
}
