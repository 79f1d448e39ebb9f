//! Admission of calls: the checks come first, then the dispatcher.
//!
//! What could not run anywhere is refused before the dispatcher is locked: arguments that are too
//! large or could not be encoded, types that do not fit, options that a pool does not have. Options
//! that a call leaves open come from the task's registration in this program.

use std::sync::Arc;
use std::time::Instant;

use super::cell::{Cell, EndFacts};
use super::core::{Admission, Effects};
use super::shared::Shared;
use super::worker_conn::outgoing::TASK_NAME_BYTES_MAX;
use crate::confinement;
use crate::error::{Error, ErrorKind};
use crate::policy::check_call;
use crate::registry;
use crate::request::{CallTarget, Request};
use crate::signature::fits;
use crate::sync::lock;

impl Shared {
    pub(super) fn admit(self: &Arc<Self>, request: Request, cell: &Arc<Cell>) -> Admission {
        match self.check(request) {
            Ok(request) => self.admit_checked(request, cell, false),
            Err(error) => Admission::Refused(error),
        }
    }

    /// Admits a call that waited for its place and has it now. If that fails the cell gets the
    /// error.
    pub(super) fn admit_with_place(
        self: &Arc<Self>,
        request: Request,
        cell: &Arc<Cell>,
    ) -> Admission {
        let admission = self.admit_checked(request, cell, true);
        match admission {
            Admission::Refused(error) => {
                self.room.add_permits(1);
                cell.finish(Err(error.into()), EndFacts::default());
                Admission::Refused(self.peek(|core| core.closed()))
            }
            admitted => admitted,
        }
    }

    fn admit_checked(
        self: &Arc<Self>,
        request: Request,
        cell: &Arc<Cell>,
        has_place: bool,
    ) -> Admission {
        let mut effects = Effects::default();
        let admission =
            lock(&self.core)
                .at(Instant::now())
                .admit(request, cell, has_place, &mut effects);
        self.carry_out(effects);
        admission
    }

    /// Admits many calls in one step.
    #[cfg(feature = "remote")]
    pub(super) fn admit_all(self: &Arc<Self>, calls: Vec<(Request, Arc<Cell>)>) -> Vec<Admission> {
        let checked: Vec<_> = calls
            .into_iter()
            .map(|(request, cell)| (self.check(request), cell))
            .collect();
        let mut effects = Effects {
            at_once: true,
            ..Effects::default()
        };
        let admissions = {
            let mut core = lock(&self.core);
            let core = core.at(Instant::now());
            let admit = |(request, cell): (Result<Request, Error>, Arc<Cell>)| match request {
                Ok(request) => core.admit(request, &cell, false, &mut effects),
                Err(error) => Admission::Refused(error),
            };
            checked.into_iter().map(admit).collect()
        };
        self.carry_out(effects);
        admissions
    }

    /// Refuses what could not run anywhere, and fills in what the task's registration says.
    fn check(&self, mut request: Request) -> Result<Request, Error> {
        request.encode();
        request.note_caller();
        let max = self.config.payload_bytes_max;
        match std::mem::replace(&mut request.payload, Ok(bytes::Bytes::new())) {
            Err(error) => return Err(error),
            Ok(payload) if payload.len() > max => {
                let text = format!(
                    "call {:?}: its arguments have {} bytes and {max} are allowed \
                        (Builder::payload_max)",
                    request.task_name(),
                    payload.len()
                );
                return Err(Error::new(ErrorKind::TooLarge, text));
            }
            Ok(payload) => request.payload = Ok(payload),
        }
        self.check_target(&request)?;
        if let CallTarget::Task { name } = &request.target
            && self.config.runs_own_program()
            && let Some(task) = registry::find(name)
        {
            request.fill(|| task.call_options());
        }
        check_call(request.options())?;
        self.check_sandbox(&request)?;
        Ok(request)
    }

    /// Refuses a call whose sandbox this host cannot keep, if it may run here.
    fn check_sandbox(&self, request: &Request) -> Result<(), Error> {
        match &request.options().sandbox {
            Some(sandbox) if self.config.workers_max > 0 => confinement::check(sandbox),
            _ => Ok(()),
        }
    }

    fn check_target(&self, request: &Request) -> Result<(), Error> {
        match &request.target {
            CallTarget::Task { name } if name.is_empty() || name.len() > TASK_NAME_BYTES_MAX => {
                let text = format!(
                    "call a task whose name has {} bytes: there are 1 to {TASK_NAME_BYTES_MAX}",
                    name.len()
                );
                Err(Error::new(ErrorKind::BadOption, text))
            }
            CallTarget::Task { name } => {
                if let (Some(signature), Some(entry)) = (request.signature, registry::find(name))
                    && !fits(signature(), (entry.signature)())
                {
                    let (called, is) = (signature(), (entry.signature)());
                    let text = format!("call {name:?} as {called}: it is {is}");
                    return Err(Error::new(ErrorKind::BadArguments, text));
                }
                Ok(())
            }
            #[cfg(feature = "remote")]
            CallTarget::Function { name, .. }
                if self.config.workers_max == 0 && registry::function_number(name).is_none() =>
            {
                let text = format!(
                    "run {name} on another host: list it with brigade::functions!({name}), or \
                        make it a #[task]"
                );
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            CallTarget::Function { .. } => Ok(()),
        }
    }
}
