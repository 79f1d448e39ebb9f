//! The monitor: the thread that reads the control channel.
//!
//! It reads stops while tasks hog their threads, answers pings, ends the process tree for a pool
//! that may not signal it, and when the channel ends the pool is gone: then it ends the whole
//! process group at once. This and the parent-death signal are two independent ways to the same
//! end.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use super::crash_note;
use super::serve::Worker;
use crate::codec::Codec;
use crate::process::end_own_strays;
use crate::shutdown::spawn_thread;
use crate::sync::lock;
use crate::wire::{CancelFrame, Decoder, kind};

/// Room for abort listeners of the user, which run here.
const STACK_BYTES: usize = 1 << 20;
/// From a signal to the main thread to the end of this process.
const HANG_UP_GRACE: Duration = Duration::from_millis(100);
/// A control message is small.
const CONTROL_BYTES_MAX: usize = 1 << 20;

pub(super) fn start(worker: &Arc<Worker>) -> io::Result<()> {
    let worker = Arc::clone(worker);
    spawn_thread("brigade-monitor", STACK_BYTES, move || {
        crash_note::prepare_thread();
        listen(&worker);
        if lock(&worker.sandbox).is_some() {
            hang_up();
        }
        end_group();
    })
}

/// Returns when the pool is gone or speaks nonsense.
fn listen(worker: &Arc<Worker>) {
    let mut decoder = Decoder::new(CONTROL_BYTES_MAX);
    let mut buffer = [0; 4096];
    loop {
        match (&worker.control).read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // A task closed our descriptors. The pool sees that by its own end of them and ends us;
            // if we did, it would look as if another process had. Should the pool be gone too, the
            // parent-death signal ends us.
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => park(),
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.buffer().extend_from_slice(&buffer[..count]),
        }
        loop {
            match decoder.next() {
                Ok(Some(frame)) if frame.kind == kind::PING => {
                    worker.send_control(kind::PONG, 0, &[])
                }
                Ok(Some(frame)) if frame.kind == kind::CANCEL => {
                    let Ok(cancel) = Codec::Postcard.decode::<CancelFrame>(&frame.body) else {
                        return;
                    };
                    worker.cancel(frame.id, &cancel.reason);
                }
                Ok(Some(frame)) if frame.kind == kind::END => {
                    end_own_strays();
                    if frame.body.first().copied().map(i32::from) == Some(libc::SIGTERM) {
                        crash_note::terminate_group();
                    } else {
                        end_group();
                    }
                }
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}

pub(super) fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Has the main thread end the group, if the pool is gone. In a sandbox this thread may not signal
/// the children of the main thread, which has another landlock domain.
fn hang_up() {
    let own = rustix::process::getpid();
    if rustix::process::kill_process(own, Signal::HUP).is_ok() {
        std::thread::park_timeout(HANG_UP_GRACE);
    }
}

fn end_group() -> ! {
    if let Err(e) = rustix::process::kill_current_process_group(Signal::KILL) {
        tracing::error!(error = %e, "could not end the process group");
    }
    std::process::abort()
}
