//! Panics of attempts: message and place, whatever becomes of the unwinding.
//!
//! The hook tells the pool on the control channel before anything unwinds, because a build with `panic = "abort"`, or a
//! panic within a panic, never comes to the point where it could be caught.

use std::cell::RefCell;
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use super::last_words;
use crate::codec::Codec;
use crate::wire::{PanicNote, encode, kind};

thread_local! {
    static LAST: RefCell<Option<PanicNote>> = const { RefCell::new(None) };
}

/// A panic's message is cut to this, so that the note always fits the socket.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

pub(super) fn install(control: BorrowedFd<'_>) {
    let Ok(control) = control.try_clone_to_owned().map(UnixStream::from) else { return };
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let mut note = note(info);
        if is_the_runtimes_own(info)
            && let Some(cause) = LAST.take()
        {
            note = PanicNote { message: format!("{} ({})", cause.message, note.message), location: cause.location };
        }
        if let Ok(body) = Codec::Postcard.encode(&note) {
            let mut frame = encode(kind::PANIC, last_words::current(), body.len()).to_vec();
            frame.extend_from_slice(&body);
            // Where the pool is gone there is nobody to tell.
            (&control).write_all(&frame).ok();
        }
        LAST.set(Some(note));
        previous(info);
    }));
}

/// Runs something and catches its panic.
pub(super) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, PanicNote> {
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        // Dropping a payload runs code of the user, which may panic again.
        std::mem::forget(payload);
        LAST.take().unwrap_or_else(|| PanicNote {
            message: "a panic without a message (resume_unwind)".to_owned(),
            location: "unknown".to_owned(),
        })
    })
}

/// Whether the language's runtime gives up because a panic cannot go on (from a drop in a panic, out of an `extern "C"`
/// function): then the panic before it, on this thread, is what people need to know.
fn is_the_runtimes_own(info: &PanicHookInfo<'_>) -> bool {
    info.location().is_some_and(|location| location.file().ends_with("core/src/panicking.rs"))
}

fn note(info: &PanicHookInfo<'_>) -> PanicNote {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic whose payload is not text");
    let message = text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned();
    PanicNote { message, location: info.location().map(ToString::to_string).unwrap_or_default() }
}
