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
