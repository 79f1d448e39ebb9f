//! What a look at a broker found.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that `Broker::check` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it; empty if nothing.
    pub advice: String,
}

/// How bad a finding is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A fact worth knowing.
    Note,
    /// Something will go wrong, or is weaker than it should be.
    Warning,
    /// Jobs are not safe, or not run.
    Problem,
}

impl Finding {
    /// A finding, from a store.
    pub fn new(level: Level, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level,
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// A queue with `jobs` that wait, for which no consumer asks.
    #[doc(hidden)]
    pub fn without_consumers(queue: &str, jobs: u64) -> Self {
        let (wait, them) = if jobs == 1 {
            ("1 job waits".to_owned(), "it")
        } else {
            (format!("{jobs} jobs wait"), "them")
        };
        Self::new(
            Level::Warning,
            format!(
                "{wait} in queue {queue}, and no consumer has asked for {them} in the last minute"
            ),
            "start one, or check the name of the queue",
        )
    }

    /// A queue with dead letters.
    #[doc(hidden)]
    pub fn dead_letters(queue: &str, jobs: u64) -> Self {
        let letters = if jobs == 1 { "letter" } else { "letters" };
        Self::new(
            Level::Note,
            format!("queue {queue} has {jobs} dead {letters}"),
            "`brigade dead ls` lists them with their reasons; retry or delete them",
        )
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.level, self.what)?;
        if self.advice.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.advice)
        }
    }
}
