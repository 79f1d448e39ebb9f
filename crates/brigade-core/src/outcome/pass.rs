//! What a task returns to give its call to another worker.

use std::fmt;

/// Sources kept of one failure: an error whose `source` never ends must not hang a worker.
pub(super) const SOURCES_MAX: usize = 16;

/// Returned by a task as `Err(Pass::new("reloading").into())`: give the call to another worker,
/// untouched and without charge.
#[derive(Debug)]
pub struct Pass {
    /// The reason, also as an error of its own below `Pass`. Wrappers like `anyhow::Error` hide the
    /// type of the error that they wrap but return its source, by which a pass is found again.
    reason: PassReason,
}

#[derive(Debug)]
struct PassReason(String);

impl Pass {
    /// Passes with a reason, which the caller sees if no worker takes the call.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self {
            reason: PassReason(reason.to_string()),
        }
    }

    /// The reason, if `error` is a pass or wraps one.
    #[doc(hidden)]
    pub fn find(error: &(dyn std::error::Error + 'static)) -> Option<String> {
        chain(error)
            .find_map(|e| e.downcast_ref::<PassReason>())
            .map(|reason| reason.0.clone())
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "passed: {}", self.reason.0)
    }
}

impl std::error::Error for Pass {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

impl fmt::Display for PassReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PassReason {}

/// An error and its sources, as many as are kept.
pub(super) fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source()).take(SOURCES_MAX + 1)
}
