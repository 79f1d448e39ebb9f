//! The hooks of a pool that run in its workers: one builds the state before the first attempt, the
//! other tears it down after the last.

use super::panics;
use crate::address;
use crate::context::State;
use crate::error::{Error, ErrorKind};
use crate::outcome::Failure;
use crate::wire::WorkerSettings;

/// Runs the init hook.
pub(crate) type InitHook = fn(&[u8]) -> Result<State, Box<Failure>>;

/// Runs the teardown hook.
pub(crate) type TeardownHook = fn(&State);

pub(super) fn build_state(settings: &WorkerSettings) -> Result<Option<State>, Error> {
    let Some(init) = &settings.init else {
        return Ok(None);
    };
    let hook: InitHook = address::hook_at(init.offset)?;
    let built = panics::catch(panics::moment(), || hook(&init.args));
    if !panics::is_ours() {
        panics::put_first();
    }
    let failed =
        |what: String| Error::new(ErrorKind::CannotStart, format!("run the init hook: {what}"));
    match built {
        Ok(Ok(state)) => Ok(Some(state)),
        Ok(Err(failure)) => Err(failed(
            std::iter::once(failure.message)
                .chain(failure.sources)
                .collect::<Vec<_>>()
                .join(": "),
        )),
        Err(panic) => Err(failed(format!(
            "it panicked at {}: {}",
            panic.location, panic.message
        ))),
    }
}

/// Runs the teardown hook, if there is one and the init hook built a state for it.
pub(super) fn tear_down(settings: &WorkerSettings, state: Option<&State>) {
    let (Some(offset), Some(state)) = (settings.teardown, state) else {
        return;
    };
    let hook: TeardownHook = match address::hook_at(offset) {
        Ok(hook) => hook,
        Err(error) => return tracing::error!(%error, "could not find the teardown hook"),
    };
    // The hook of `panics` has reported a panic; this process ends in any case.
    panics::catch(panics::moment(), || hook(state)).ok();
}
