//! A master's messages, as its host handles them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind};
use crate::host::session::Session;
use crate::host::session::held::HeldCall;
use crate::remote::{FrameHandler, Messages};
use crate::sync::lock;
use crate::wire::remote::kind;

/// Handles a master's messages on one connection.
pub(super) struct Master<'a> {
    pub(super) session: &'a Arc<Session>,
    pub(super) draining: &'a CancellationToken,
    /// The master has let this host go.
    pub(super) over: CancellationToken,
}

impl FrameHandler for Master<'_> {
    fn recv(&self, messages: &mut Messages<'_>) -> Result<(), Error> {
        let (session, mut runs) = (self.session, Vec::new());
        while let Some(frame) = messages.next()? {
            if frame.kind == kind::RUN {
                runs.push((frame.id, session.request(&frame)?));
                continue;
            }
            // What comes behind a call may be about it.
            session.begin(&mut runs, self.draining.is_cancelled())?;
            match frame.kind {
                kind::STOP => {
                    let invalid = |e| Error::new(ErrorKind::Protocol, "read a stop").with_source(e);
                    session.stop(
                        frame.id,
                        &postcard::from_bytes(&frame.body).map_err(invalid)?,
                    );
                }
                kind::ACK => {
                    let mut state = lock(&session.state);
                    for id in frame.body.as_chunks::<8>().0 {
                        let call = u64::from_le_bytes(*id);
                        if matches!(state.calls.get(&call), Some(HeldCall::Ended { .. })) {
                            state.calls.remove(&call);
                        }
                    }
                }
                kind::BYE => self.over.cancel(),
                unknown => {
                    return Err(Error::new(
                        ErrorKind::Protocol,
                        format!("read a frame of unknown kind {unknown}"),
                    ));
                }
            }
        }
        session.begin(&mut runs, self.draining.is_cancelled())
    }
}
