//! Which queue is asked first: strict ones in their order, then those that take turns.
//!
//! With equal weights the turn goes round: the next ask begins behind the last queue that gave a
//! job, which costs nothing however many there are. With other weights it is smooth weighted round
//! robin, counted in jobs. Each job adds to the credit of every queue that had jobs, by its weight,
//! and takes the sum from the queue that it came from; the highest credit is asked first. A queue
//! that has run dry has neither credit nor debt, so it holds up no other and gets nothing back
//! later for the time in which it was empty.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::store::{QueueSet, Queues};

pub(super) type Paused = Arc<BTreeSet<Box<str>>>;

pub(super) struct Turns {
    all: Arc<QueueSet>,
    /// Without the paused ones.
    open: Arc<QueueSet>,
    paused: Paused,
    /// Whose turn is next, by its place among all; meant for equal weights.
    next: usize,
    /// By place among all; `None` with equal weights. Strict ones have none.
    shares: Option<Vec<QueueShare>>,
}

#[derive(Clone, Copy, Default)]
struct QueueShare {
    weight: i64,
    credit: i64,
}

impl Turns {
    pub(super) fn new(strict: Vec<Box<str>>, turns: Vec<(Box<str>, u32)>) -> Self {
        let all = Arc::new(QueueSet::new(
            strict,
            turns.iter().map(|(name, _)| name.clone()),
        ));
        let is_equal = turns.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let mut shares = vec![QueueShare::default(); all.names().len()];
        for (name, weight) in turns {
            // Of a name that comes twice, the first counts.
            if let Some(share) = all
                .place(&name)
                .and_then(|place| shares.get_mut(place))
                .filter(|share| share.weight == 0)
            {
                share.weight = i64::from(weight.max(1));
            }
        }
        let (open, next) = (Arc::clone(&all), all.strict());
        Self {
            all,
            open,
            paused: Paused::default(),
            next,
            shares: (!is_equal).then_some(shares),
        }
    }

    /// Every queue, paused ones too.
    pub(super) fn all(&self) -> &Arc<QueueSet> {
        &self.all
    }

    /// Those that are not paused, in the order in which they are to be looked through.
    pub(super) fn order(&mut self, paused: &Paused) -> Queues {
        if !Arc::ptr_eq(paused, &self.paused) {
            self.paused = Arc::clone(paused);
            self.open = self.without(paused);
        }
        let (open, all) = (&self.open, &self.all);
        let Some(shares) = &self.shares else {
            let names = all.names();
            let after = (self.next..names.len()).chain(all.strict()..self.next);
            let first = after
                .into_iter()
                .find_map(|place| open.place(&names[place]));
            return Queues::from(open, first.unwrap_or(0));
        };
        let share = |name: &str| {
            all.place(name)
                .map_or(QueueShare::default(), |place| shares[place])
        };
        let credit = |place: &usize| share(&open.names()[*place]).promise();
        let mut turns: Vec<usize> = (open.strict()..open.names().len()).collect();
        turns.sort_by_key(|place| Reverse(credit(place)));
        Queues::sorted(open, turns)
    }

    fn without(&self, paused: &BTreeSet<Box<str>>) -> Arc<QueueSet> {
        if paused.is_empty() {
            return Arc::clone(&self.all);
        }
        let (strict, turns) = self.all.names().split_at(self.all.strict());
        let open = |names: &[Box<str>]| {
            names
                .iter()
                .filter(|name| !paused.contains(*name))
                .cloned()
                .collect::<Vec<_>>()
        };
        Arc::new(QueueSet::new(open(strict), open(turns)))
    }

    /// Takes note of what came of an ask: the queues that were looked through, which queue each job
    /// came from, and whether there was room for more.
    pub(super) fn note(&mut self, asked: &Queues, from: &[&str], had_room: bool) {
        let strict = self.all.strict();
        let turns: Vec<usize> = from
            .iter()
            .filter_map(|queue| self.all.place(queue))
            .filter(|place| *place >= strict)
            .collect();
        let last = from.iter().filter_map(|queue| asked.rank(queue)).max();
        let Some(shares) = &mut self.shares else {
            let last = last
                .and_then(|rank| self.all.place(&asked.names()[asked.place(rank)]))
                .filter(|place| *place >= strict);
            if let Some(last) = last {
                self.next = if last + 1 == self.all.names().len() {
                    strict
                } else {
                    last + 1
                };
            }
            return;
        };
        // Those before it were looked through and have nothing more.
        let last = if had_room {
            asked.len()
        } else {
            last.unwrap_or(0)
        };
        let mut gave = vec![0_i64; shares.len()];
        turns.iter().for_each(|place| gave[*place] += 1);
        let has_more: Vec<bool> = self
            .all
            .names()
            .iter()
            .map(|name| asked.rank(name).is_some_and(|rank| rank >= last))
            .collect();
        let counts = |place: usize| has_more[place] || gave[place] > 0;
        let total: i64 = shares
            .iter()
            .enumerate()
            .filter(|(place, _)| counts(*place))
            .map(|(_, share)| share.weight)
            .sum();
        let given = i64::try_from(turns.len()).unwrap_or(i64::MAX >> 32);
        for (place, share) in shares.iter_mut().enumerate().skip(strict) {
            share.credit = if has_more[place] {
                share.credit + given * share.weight - gave[place] * total
            } else {
                0
            };
        }
    }
}

impl QueueShare {
    fn promise(self) -> i64 {
        self.credit + self.weight
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Asks so often for so many jobs of queues that hold what they hold; what came, in order.
    fn serve(
        turns: &mut Turns,
        queues: &mut HashMap<&'static str, usize>,
        asks: usize,
        max: usize,
    ) -> Vec<&'static str> {
        let mut came = Vec::new();
        for _ in 0..asks {
            let order = turns.order(&Paused::default());
            let mut from = Vec::new();
            for queue in order.iter() {
                let Some((name, left)) = queues.iter_mut().find(|(name, _)| ***name == **queue)
                else {
                    continue;
                };
                let count = (*left).min(max - from.len());
                *left -= count;
                from.extend(std::iter::repeat_n(*name, count));
            }
            came.extend(&from);
            turns.note(&order, &from, from.len() < max);
        }
        came
    }

    fn count(came: &[&str]) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        came.iter()
            .for_each(|name| *counts.entry((*name).to_owned()).or_default() += 1);
        counts
    }

    fn weighted() -> Turns {
        Turns::new(
            vec!["urgent".into()],
            vec![("a".into(), 3), ("b".into(), 1)],
        )
    }

    fn equal() -> Turns {
        Turns::new(
            vec!["urgent".into()],
            ["a", "b", "c"].map(|name| (name.into(), 1)).to_vec(),
        )
    }

    #[test]
    fn full_queues_share_by_weight_whatever_the_batch() {
        for max in [1, 2, 7, 8] {
            let gave = count(&serve(
                &mut weighted(),
                &mut HashMap::from([("a", 10_000), ("b", 10_000)]),
                400,
                max,
            ));
            assert_eq!(gave["a"] + gave["b"], 400 * max);
            assert!(gave["a"].abs_diff(300 * max) <= 4 * max, "{max}: {gave:?}");
        }
    }

    #[test]
    fn one_by_one_they_take_smooth_turns() {
        let mut queues = HashMap::from([("a", 100), ("b", 100), ("c", 100)]);
        assert_eq!(
            serve(&mut weighted(), &mut queues, 8, 1).concat(),
            "aabaaaba"
        );
        assert_eq!(serve(&mut equal(), &mut queues, 7, 1).concat(), "abcabca");
    }

    #[test]
    fn full_queues_take_equal_turns_whatever_the_batch() {
        for max in [1, 2, 7, 8] {
            let mut queues = HashMap::from([("a", 10_000), ("b", 10_000), ("c", 10_000)]);
            let gave = count(&serve(&mut equal(), &mut queues, 300, max));
            assert_eq!([gave["a"], gave["b"], gave["c"]], [100 * max; 3]);
        }
    }

    #[test]
    fn strict_queues_come_first() {
        for mut turns in [weighted(), equal()] {
            let came = serve(
                &mut turns,
                &mut HashMap::from([("urgent", 50), ("a", 100), ("b", 100)]),
                50,
                1,
            );
            assert_eq!(came, ["urgent"; 50]);
        }
    }

    #[test]
    fn an_empty_queue_holds_up_no_other_and_saves_nothing_up() {
        let (mut turns, mut queues) = (weighted(), HashMap::from([("a", 0), ("b", 1_000)]));
        assert_eq!(serve(&mut turns, &mut queues, 100, 1), ["b"; 100]);
        queues.insert("a", 1_000);
        let gave = count(&serve(&mut turns, &mut queues, 40, 1));
        assert!(
            gave["a"].abs_diff(30) <= 1 && gave["b"].abs_diff(10) <= 1,
            "{gave:?}"
        );
    }

    #[test]
    fn paused_queues_are_passed_over_and_come_back_in_their_turn() {
        let mut turns = equal();
        let names = |queues: &Queues| {
            queues
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        let paused: Paused = Arc::new(BTreeSet::from(["b".into(), "elsewhere".into()]));
        let order = turns.order(&paused);
        assert_eq!(names(&order), ["urgent", "a", "c"]);
        turns.note(&order, &["a"], false);
        assert_eq!(names(&turns.order(&paused)), ["urgent", "c", "a"]);
        assert_eq!(
            names(&turns.order(&Paused::default())),
            ["urgent", "b", "c", "a"]
        );
        let everything: Paused = Arc::new(["urgent", "a", "b", "c"].map(Box::from).into());
        assert_eq!(turns.order(&everything).len(), 0);
    }

    #[test]
    fn ten_thousand_queues_cost_an_ask_next_to_nothing() {
        let mut turns = Turns::new(
            Vec::new(),
            (0..10_000)
                .map(|n| (format!("tenant {n}").into(), 1))
                .collect(),
        );
        for n in 0..10_000 {
            let order = turns.order(&Paused::default());
            let first = order.iter().next().unwrap().to_string();
            assert_eq!(first, format!("tenant {n}"));
            turns.note(&order, &[&first], false);
        }
    }
}
