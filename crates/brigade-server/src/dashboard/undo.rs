//! [`Undos`]: what can be undone, for [`KEPT_FOR`].
//!
//! The page after an action offers to undo it. What that would do is kept here, and the address of
//! the page has its key alone. Keys cannot be guessed, so a link made by someone else offers
//! nothing.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long something can be undone.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// The most that are kept; the oldest goes for a new one.
const UNDOS_MAX: usize = 1_000;

/// How an action on a queue or schedule is undone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Undo {
    /// The last segment of the path of the form.
    pub(super) action: &'static str,
    pub(super) fields: Vec<(&'static str, String)>,
}

/// What can be undone. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Undos(Arc<UndoList>);

#[derive(Default)]
struct UndoList {
    /// Has a random secret, of which the keys are made.
    keys: RandomState,
    kept: Mutex<KeptUndos>,
}

#[derive(Default)]
struct KeptUndos {
    /// How many there were.
    count: u64,
    list: VecDeque<KeptUndo>,
}

struct KeptUndo {
    key: String,
    /// The path of the queue or schedule.
    path: String,
    undo: Undo,
    until: Instant,
}

impl Undos {
    /// Keeps how an action on what has this path is undone, and gives the key.
    pub(super) fn keep(&self, path: &str, undo: Undo) -> String {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        let key = format!("{:016x}", self.0.keys.hash_one(kept.count));
        if kept.list.len() >= UNDOS_MAX {
            kept.list.pop_front();
        }
        kept.list.push_back(KeptUndo {
            key: key.clone(),
            path: path.to_owned(),
            undo,
            until: Instant::now() + KEPT_FOR,
        });
        key
    }

    /// How an action on what has this path is undone.
    pub(super) fn find(&self, key: &str, path: &str) -> Option<Undo> {
        let now = Instant::now();
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = kept.list.iter();
        let found = list.find(|one| one.key == key && one.path == path && one.until > now);
        found.map(|one| one.undo.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resume() -> Undo {
        Undo {
            action: "resume",
            fields: Vec::new(),
        }
    }

    #[test]
    fn only_the_key_of_this_server_and_path_finds_an_undo() {
        let undos = Undos::default();
        let key = undos.keep("/queues/mail", resume());
        assert_eq!(undos.find(&key, "/queues/mail"), Some(resume()));
        assert_eq!(undos.find(&key, "/queues/report"), None);
        assert_eq!(undos.find("", "/queues/mail"), None);
        assert_eq!(Undos::default().find(&key, "/queues/mail"), None);
    }

    #[test]
    fn the_oldest_undo_goes_for_one_too_many() {
        let undos = Undos::default();
        let first = undos.keep("/queues/mail", resume());
        let second = undos.keep("/queues/mail", resume());
        for _ in 0..UNDOS_MAX - 1 {
            undos.keep("/queues/mail", resume());
        }
        assert_eq!(undos.find(&first, "/queues/mail"), None);
        assert_eq!(undos.find(&second, "/queues/mail"), Some(resume()));
    }
}
