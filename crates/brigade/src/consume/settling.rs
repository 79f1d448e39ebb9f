//! Telling the broker how attempts ended. Those that end at about the same time are told together, and each attempt hears of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::PAUSE;
use crate::broker::{Backend, Convoy, Settled, Settlement};
use crate::error::{Error, ErrorKind};
use crate::shutdown::Scope;

/// Settlements that go together.
const TOGETHER_MAX: usize = 1024;
/// Of these at the same time, so that the broker has the next when it has done one.
const UNDER_WAY_MAX: usize = 2;
/// There is one lane, for all queues.
const LANE: &str = "";

pub(super) struct Settling(Convoy<Ended, Option<Settled>>);

struct Ended {
    settlement: Settlement,
    /// Its place in this worker, free again when the broker was told.
    room: Option<OwnedSemaphorePermit>,
}

impl Settling {
    /// `lease`: how long it is worth while to try.
    pub(super) fn new(scope: &Scope, backend: Arc<dyn Backend>, lease: Duration) -> Self {
        Self(Convoy::new(scope.clone(), UNDER_WAY_MAX, TOGETHER_MAX, move |_, ended| settle_together(Arc::clone(&backend), lease, ended)))
    }

    /// `None` if the broker cannot be told. `room` comes free before this returns.
    pub(super) async fn settle(&self, settlement: Settlement, room: Option<OwnedSemaphorePermit>) -> Option<Settled> {
        self.0.ask(LANE, Ended { settlement, room }, 1).await.ok().flatten()
    }
}

async fn settle_together(backend: Arc<dyn Backend>, lease: Duration, ended: Vec<Ended>) -> Vec<Option<Settled>> {
    let settlements: Vec<Settlement> = ended.iter().map(|ended| ended.settlement.clone()).collect();
    let answers = match backend.settle(settlements).await {
        Ok(answers) => answers,
        Err(error) => ended.iter().map(|_| Err(error.copy())).collect(),
    };
    if answers.iter().all(Result::is_ok) {
        free_together(ended);
        return answers.into_iter().map(Result::ok).collect();
    }
    let failed: Vec<&Error> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    if let Some(error) = failed.iter().find(|error| error.kind() != ErrorKind::Closed) {
        note(error, failed.len());
    }
    // Whatever is wrong with one must not hold up the others.
    join_all(ended.into_iter().zip(answers).map(|(one, answer)| settle_alone(&*backend, lease, one, answer))).await
}

/// At once, so that one lease fills all of it.
fn free_together(ended: Vec<Ended>) {
    let merge = |mut all: OwnedSemaphorePermit, one| {
        all.merge(one);
        all
    };
    drop(ended.into_iter().filter_map(|ended| ended.room).reduce(merge));
}

/// One that does not come through is tried for as long as the lease can hold, unless the broker has ended: there will be no other.
async fn settle_alone(backend: &dyn Backend, lease: Duration, ended: Ended, mut answer: Result<Settled, Error>) -> Option<Settled> {
    let settling = async {
        loop {
            match answer {
                Ok(settled) => return Some(settled),
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(_) => sleep(PAUSE).await,
            }
            answer = match backend.settle(vec![ended.settlement.clone()]).await {
                Ok(mut answers) => answers.pop()?,
                Err(error) => Err(error),
            };
            if let Err(error) = &answer {
                note(error, 1);
            }
        }
    };
    timeout(lease, settling).await.ok().flatten()
}

fn note(error: &Error, jobs: usize) {
    tracing::warn!(%error, jobs, "could not settle; trying again");
}
