//! Batches of requests: a request that arrives while others of its lane are under way waits, and
//! goes with the next batch.
//!
//! So the more callers there are, the more share one round trip, and a lone caller does not wait.
//! Each request has its own answer. A lane exists as long as there are requests for it. Its tasks
//! belong to the batcher, not to a caller: a caller that goes away, or is not polled, delays no
//! other.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, oneshot};
use tokio::task::yield_now;

use crate::shutdown::Scope;
use brigade_core::error::{Error, ErrorKind};
use brigade_core::sync::lock;

/// Questions that may wait; then their callers wait.
const QUESTIONS_MAX: usize = 4096;

type Answering<A> = Pin<Box<dyn Future<Output = Vec<A>> + Send>>;
type Carry<Q, A> = dyn Fn(Box<str>, Vec<Q>) -> Answering<A> + Send + Sync;

pub struct Batcher<Q, A>(Arc<Inner<Q, A>>);

struct Inner<Q, A> {
    scope: Scope,
    /// In each lane at the same time.
    under_way_max: usize,
    /// A further one begins only when so many questions wait.
    worth_another: usize,
    /// What one carries at most, by the weights of its questions; at least one question.
    weight_max: usize,
    room: Semaphore,
    lanes: Mutex<HashMap<Box<str>, Lane<Q, A>>>,
    carry: Box<Carry<Q, A>>,
}

struct Lane<Q, A> {
    waiting: VecDeque<Waiting<Q, A>>,
    under_way: usize,
}

struct Waiting<Q, A> {
    question: Q,
    weight: usize,
    reply: oneshot::Sender<A>,
}

impl<Q: Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// `carry` gets the questions of a lane and gives one answer for each. It has
    /// `under_way_max.0` batches at the same time, a further one only when `under_way_max.1`
    /// questions wait, and so much in one, by the weights of the questions.
    pub fn new<F>(
        scope: Scope,
        under_way_max: (usize, usize),
        weight_max: usize,
        carry: impl Fn(Box<str>, Vec<Q>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let carry = Box::new(move |lane: Box<str>, questions: Vec<Q>| {
            Box::pin(carry(lane, questions)) as Answering<A>
        });
        Self(Arc::new(Inner {
            scope,
            under_way_max: under_way_max.0,
            worth_another: under_way_max.1,
            weight_max,
            room: Semaphore::new(QUESTIONS_MAX),
            lanes: Mutex::default(),
            carry,
        }))
    }

    /// # Errors
    ///
    /// `Closed` if the runtime has ended on which the batcher was made.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the question back once it is under way.
    pub async fn ask(&self, lane: &str, question: Q, weight: usize) -> Result<A, Error> {
        let gone =
            || Error::new(ErrorKind::Closed, "ask a broker whose runtime has ended").uncertain();
        let _room = self.0.room.acquire().await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        if let Some(trips) = self.0.join(
            lane,
            Waiting {
                question,
                weight: weight.max(1),
                reply,
            },
        ) {
            self.0.scope.spawn(trips.run());
        }
        answer.await.map_err(|_| gone())
    }
}

impl<Q, A> Inner<Q, A> {
    /// Has a question wait; gives the trips that are to begin for it, if it needs any.
    fn join(self: &Arc<Self>, name: &str, waiting: Waiting<Q, A>) -> Option<Trips<Q, A>> {
        let mut lanes = lock(&self.lanes);
        if !lanes.contains_key(name) {
            lanes.insert(
                name.into(),
                Lane {
                    waiting: VecDeque::new(),
                    under_way: 0,
                },
            );
        }
        let lane = lanes.get_mut(name)?;
        lane.waiting.push_back(waiting);
        let is_needed = lane.under_way == 0
            || lane.under_way < self.under_way_max && lane.waiting.len() >= self.worth_another;
        lane.under_way += usize::from(is_needed);
        is_needed.then(|| Trips {
            batcher: Arc::clone(self),
            lane: name.into(),
            is_over: false,
        })
    }
}

/// Takes what waits in a lane, again and again until nothing does.
struct Trips<Q, A> {
    batcher: Arc<Inner<Q, A>>,
    lane: Box<str>,
    is_over: bool,
}

impl<Q, A> Trips<Q, A> {
    async fn run(mut self) {
        loop {
            // Callers that are ready, or have just got an answer and ask again, join this batch.
            yield_now().await;
            let Some(load) = self.load() else { return };
            let (questions, replies): (Vec<Q>, Vec<oneshot::Sender<A>>) = load
                .into_iter()
                .map(|one| (one.question, one.reply))
                .unzip();
            let answers = (self.batcher.carry)(self.lane.clone(), questions).await;
            for (reply, answer) in replies.into_iter().zip(answers) {
                // The caller may have stopped waiting.
                reply.send(answer).ok();
            }
        }
    }

    /// What goes together now; with `None` the trips are over.
    fn load(&mut self) -> Option<Vec<Waiting<Q, A>>> {
        let mut lanes = lock(&self.batcher.lanes);
        if let Some(lane) = lanes.get_mut(&self.lane) {
            // Others under way will take the few that wait.
            let is_worth_it =
                lane.under_way == 1 || lane.waiting.len() >= self.batcher.worth_another;
            let (mut load, mut weight) = (Vec::new(), 0_usize);
            while let Some(next) = lane.waiting.pop_front_if(|next| {
                is_worth_it && (weight == 0 || weight + next.weight <= self.batcher.weight_max)
            }) {
                weight += next.weight;
                load.push(next);
            }
            if !load.is_empty() {
                return Some(load);
            }
            lane.under_way = lane.under_way.saturating_sub(1);
            if lane.under_way == 0 {
                lanes.remove(&self.lane);
            }
        }
        self.is_over = true;
        None
    }
}

impl<Q, A> Drop for Trips<Q, A> {
    /// Cut short, as the runtime has ended: dropping the requests ends the waits of their callers.
    fn drop(&mut self) {
        if !self.is_over {
            let lane = lock(&self.batcher.lanes).remove(&self.lane);
            drop(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// Gives back each question with how many it went with, once it is let go.
    fn batcher(
        under_way_max: usize,
        weight_max: usize,
    ) -> (Batcher<u32, (u32, usize)>, Arc<Semaphore>) {
        batcher_of((under_way_max, 1), weight_max)
    }

    fn batcher_of(
        under_way_max: (usize, usize),
        weight_max: usize,
    ) -> (Batcher<u32, (u32, usize)>, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        let go = Arc::clone(&gate);
        let carry = move |_, questions: Vec<u32>| {
            let go = Arc::clone(&go);
            async move {
                go.acquire().await.unwrap().forget();
                questions
                    .iter()
                    .map(|question| (*question, questions.len()))
                    .collect()
            }
        };
        (
            Batcher::new(Scope::current().unwrap(), under_way_max, weight_max, carry),
            gate,
        )
    }

    async fn waiting(batcher: &Batcher<u32, (u32, usize)>, count: usize) {
        while lock(&batcher.0.lanes)
            .get("a")
            .map_or(0, |lane| lane.waiting.len())
            != count
        {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_asked_meanwhile_goes_together_and_each_gets_its_own_answer() {
        let (batcher, gate) = batcher(1, 100);
        let first = async { batcher.ask("a", 0, 1).await.unwrap() };
        let others = async {
            // The first is under way by now.
            while lock(&batcher.0.lanes)
                .get("a")
                .is_none_or(|lane| !lane.waiting.is_empty())
            {
                yield_now().await;
            }
            let asked = join_all((1..=50).map(|number| batcher.ask("a", number, 1)));
            let free = async {
                waiting(&batcher, 50).await;
                gate.add_permits(2);
            };
            tokio::join!(asked, free).0
        };
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first, (0, 1));
        assert_eq!(
            others.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
            (1..=50).map(|number| (number, 50)).collect::<Vec<_>>()
        );
        yield_now().await;
        assert!(
            lock(&batcher.0.lanes).is_empty(),
            "nothing is left of a lane"
        );
    }

    #[tokio::test]
    async fn a_second_batch_begins_when_enough_questions_wait() {
        let (batcher, gate) = batcher_of((2, 3), 100);
        let first = async { batcher.ask("a", 0, 1).await.unwrap() };
        let others = async {
            waiting(&batcher, 0).await;
            let asked = join_all((1..=3).map(|number| batcher.ask("a", number, 1)));
            let free = async {
                waiting(&batcher, 0).await;
                gate.add_permits(2);
            };
            tokio::join!(asked, free).0
        };
        // Neither was let go before both were under way.
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first, (0, 1));
        let others: Vec<_> = others.into_iter().map(Result::unwrap).collect();
        assert_eq!(others, [(1, 3), (2, 3), (3, 3)]);
    }

    #[tokio::test]
    async fn few_questions_wait_for_the_batch_before_them() {
        let (batcher, gate) = batcher_of((2, 3), 100);
        let first = async { batcher.ask("a", 0, 1).await.unwrap() };
        let others = async {
            waiting(&batcher, 0).await;
            let asked = join_all((1..=2).map(|number| batcher.ask("a", number, 1)));
            let free = async {
                waiting(&batcher, 2).await;
                gate.add_permits(2);
            };
            tokio::join!(asked, free).0
        };
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first, (0, 1));
        let others: Vec<_> = others.into_iter().map(Result::unwrap).collect();
        assert_eq!(others, [(1, 2), (2, 2)]);
    }

    #[tokio::test]
    async fn no_more_go_together_than_their_weights_allow_but_one_always_may() {
        let (batcher, gate) = batcher(1, 10);
        gate.add_permits(100);
        let weights = [4, 4, 4, 30, 1, 9, 1];
        let asked = weights
            .iter()
            .zip(0..)
            .map(|(weight, number)| batcher.ask("a", number, *weight));
        let told: Vec<usize> = join_all(asked)
            .await
            .into_iter()
            .map(|told| told.unwrap().1)
            .collect();
        assert_eq!(told, [2, 2, 1, 1, 2, 2, 1]);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_holds_up_nobody_nor_does_another_lane() {
        let (batcher, gate) = batcher(1, 100);
        assert!(batcher.ask("a", 1, 1).now_or_never().is_none());
        let other = async {
            let asked = batcher.ask("b", 2, 1);
            let free = async { gate.add_permits(2) };
            tokio::join!(asked, free).0
        };
        assert_eq!(
            tokio::time::timeout(Duration::from_secs(30), other)
                .await
                .unwrap()
                .unwrap(),
            (2, 1)
        );
        gate.add_permits(2);
        assert_eq!(batcher.ask("a", 3, 1).await.unwrap().0, 3);
    }

    #[test]
    fn who_asks_when_the_runtime_has_ended_is_told_so() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (batcher, _gate) = runtime.block_on(async { batcher(1, 100) });
        // One is under way when it ends, another comes later.
        runtime.block_on(async {
            assert!(batcher.ask("a", 1, 1).now_or_never().is_none());
            yield_now().await;
        });
        drop(runtime);
        let later = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for _ in 0..2 {
            let error = later.block_on(batcher.ask("a", 2, 1)).unwrap_err();
            assert!(
                error.kind() == ErrorKind::Closed && error.is_uncertain(),
                "{error:?}"
            );
        }
    }
}
