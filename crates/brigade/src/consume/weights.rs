//! Which queue is asked first: strict ones in their order, then those that share by weight.
//!
//! Smooth weighted round robin, counted in jobs. Each job adds to the credit of every queue that had jobs, by its weight, and takes the sum
//! from the queue that it came from; the highest credit is asked first. A queue that has run dry has neither credit nor debt, so
//! it holds up nobody and gets nothing back later for the time in which it was empty.

use std::cmp::Reverse;

pub(super) struct Weights {
    strict: Vec<Box<str>>,
    shares: Vec<Share>,
}

struct Share {
    queue: Box<str>,
    weight: i64,
    credit: i64,
}

impl Weights {
    pub(super) fn new(strict: Vec<Box<str>>, shares: Vec<(Box<str>, u32)>) -> Self {
        let share = |(queue, weight): (Box<str>, u32)| Share { queue, weight: i64::from(weight.max(1)), credit: 0 };
        Self { strict, shares: shares.into_iter().map(share).collect() }
    }

    /// Every queue, paused ones too.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.strict.iter().chain(self.shares.iter().map(|share| &share.queue)).map(|queue| &**queue)
    }

    /// In the order in which they are to be looked through.
    pub(super) fn order(&self) -> Vec<Box<str>> {
        let mut shares: Vec<&Share> = self.shares.iter().collect();
        shares.sort_by_key(|share| Reverse(share.credit + share.weight));
        self.strict.iter().chain(shares.into_iter().map(|share| &share.queue)).cloned().collect()
    }

    /// Takes note of what came of an ask: the queues that were looked through, which queue each job came from, and whether there was
    /// room for more.
    pub(super) fn note(&mut self, asked: &[Box<str>], from: &[&str], had_room: bool) {
        if self.shares.is_empty() {
            return;
        }
        let last = if had_room { asked.len() } else { from.last().map_or(0, |last| place(asked, last)) };
        let has_more = |share: &Share| asked[last.min(asked.len())..].contains(&share.queue);
        let gave = |share: &Share| from.contains(&&*share.queue);
        let total: i64 = self.shares.iter().filter(|share| has_more(share) || gave(share)).map(|share| share.weight).sum();
        for share in &mut self.shares {
            if !has_more(share) {
                share.credit = 0;
                continue;
            }
            let own = from.iter().filter(|queue| ***queue == *share.queue).count();
            let shared = from.iter().filter(|queue| !self.strict.iter().any(|strict| **strict == ***queue)).count();
            let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX >> 32);
            share.credit += count(shared) * share.weight - count(own) * total;
        }
    }
}

fn place(asked: &[Box<str>], queue: &str) -> usize {
    asked.iter().position(|asked| **asked == *queue).unwrap_or(asked.len())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Asks so often for so many jobs of queues that hold what they hold; how many each gave.
    fn serve(weights: &mut Weights, queues: &mut HashMap<&'static str, usize>, asks: usize, max: usize) -> HashMap<&'static str, usize> {
        let mut gave: HashMap<&'static str, usize> = HashMap::new();
        for _ in 0..asks {
            let order = weights.order();
            let mut from = Vec::new();
            for queue in &order {
                let Some((name, left)) = queues.iter_mut().find(|(name, _)| ***name == **queue) else { continue };
                let count = (*left).min(max - from.len());
                *left -= count;
                from.extend(std::iter::repeat_n(*name, count));
            }
            for name in &from {
                *gave.entry(name).or_default() += 1;
            }
            weights.note(&order, &from, from.len() < max);
        }
        gave
    }

    fn weights() -> Weights {
        Weights::new(vec!["urgent".into()], vec![("a".into(), 3), ("b".into(), 1)])
    }

    #[test]
    fn full_queues_share_by_weight_whatever_the_batch() {
        for max in [1, 2, 7, 8] {
            let gave = serve(&mut weights(), &mut HashMap::from([("a", 10_000), ("b", 10_000)]), 400, max);
            assert_eq!(gave["a"] + gave["b"], 400 * max);
            assert!(gave["a"].abs_diff(300 * max) <= 4 * max, "{max}: {gave:?}");
        }
    }

    #[test]
    fn one_by_one_they_take_smooth_turns() {
        let (mut weights, mut queues) = (weights(), HashMap::from([("a", 100), ("b", 100)]));
        let turns: String = (0..8).map(|_| serve(&mut weights, &mut queues, 1, 1).into_keys().next().unwrap()).collect();
        assert_eq!(turns, "aabaaaba");
    }

    #[test]
    fn strict_queues_come_first() {
        let gave = serve(&mut weights(), &mut HashMap::from([("urgent", 50), ("a", 100), ("b", 100)]), 50, 1);
        assert_eq!(gave, HashMap::from([("urgent", 50)]));
    }

    #[test]
    fn an_empty_queue_holds_up_nobody_and_saves_nothing_up() {
        let (mut weights, mut queues) = (weights(), HashMap::from([("a", 0), ("b", 1_000)]));
        assert_eq!(serve(&mut weights, &mut queues, 100, 1)["b"], 100);
        queues.insert("a", 1_000);
        let gave = serve(&mut weights, &mut queues, 40, 1);
        assert!(gave["a"].abs_diff(30) <= 1 && gave["b"].abs_diff(10) <= 1, "{gave:?}");
    }
}
