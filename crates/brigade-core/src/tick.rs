//! [`Tick`]: one moment of a schedule.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The tick that a job was pushed for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tick {
    /// Name of the schedule.
    pub schedule: String,
    /// When it was due, whenever the job came to be pushed.
    pub at: SystemTime,
}
