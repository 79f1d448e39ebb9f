//! Panics of attempts: message and place, however they reach the attempt.
//!
//! The hook notes each panic of the process and reports it on the control channel before anything
//! unwinds, because a build with `panic = "abort"`, or a panic within a panic, never comes to the
//! point where it could be caught.
//!
//! What is caught at the end of an attempt is a payload without a place. It may come from another
//! thread: rayon, scoped threads and `spawn_blocking` carry a payload over and resume its
//! unwinding, for which no hook runs. So the payload is looked up among the notes: text by its
//! address, which moves with the payload, then by its content; anything else by its type.
//!
//! A hook of the program's own that was set before, or by the init hook, is called after ours. One
//! that a task sets is found after the attempt (`is_ours`). Until then panics are known by their
//! payload alone, without a place.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use super::crash_note;
use crate::codec::Codec;
use crate::sync::lock;
use crate::wire::{PanicNote, encode, kind};

/// A panic's message is cut to this, so that the note always fits the socket.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Panics that are remembered: those of a few threads at once.
const NOTES_MAX: usize = 32;
/// Longest name of a thread in a message.
const NAME_BYTES_MAX: usize = 64;

static CONTROL: OnceLock<UnixStream> = OnceLock::new();
static NOTES: Mutex<VecDeque<PanicRecord>> = Mutex::new(VecDeque::new());
/// Panics so far.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Where the hook that was installed last is.
static HOOK: AtomicUsize = AtomicUsize::new(0);
/// Whether attempts share the process.
static SHARED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static WITHIN_HOOK: Cell<bool> = const { Cell::new(false) };

    /// Number of the last panic of this thread, since it last began something.
    static LAST: Cell<Option<u64>> = const { Cell::new(None) };
}

type PanicHook = dyn Fn(&PanicHookInfo<'_>) + Send + Sync;

struct PanicRecord {
    number: u64,
    attempt: u64,
    thread: thread::ThreadId,
    thread_name: String,
    /// Address of the whole text, or zero.
    text: usize,
    payload: TypeId,
    message: String,
    location: String,
}

impl PanicRecord {
    fn to_wire(&self) -> PanicNote {
        PanicNote {
            message: self.message.clone(),
            location: self.location.clone(),
        }
    }
}

pub(super) fn install(control: BorrowedFd<'_>, shared: bool) {
    if let Ok(control) = control.try_clone_to_owned() {
        CONTROL.set(control.into()).ok();
    }
    SHARED.store(shared, Ordering::Relaxed);
    put_first();
}

/// Puts our hook before the one that is set.
pub(super) fn put_first() {
    let previous = panic::take_hook();
    // Its address distinguishes it from others, so it must have one: it captures the previous hook.
    let hook: Box<PanicHook> = Box::new(move |info| {
        if !WITHIN_HOOK.replace(true) {
            note(info);
            previous(info);
            WITHIN_HOOK.set(false);
        } else {
            // An older one of ours, called by a hook that was set in between.
            previous(info);
        }
    });
    HOOK.store(address(&*hook), Ordering::Relaxed);
    panic::set_hook(hook);
}

/// Whether the hook of the process is still ours.
pub(super) fn is_ours() -> bool {
    let hook = panic::take_hook();
    let ours = address(&*hook) == HOOK.load(Ordering::Relaxed);
    panic::set_hook(hook);
    ours
}

fn address(hook: &PanicHook) -> usize {
    (&raw const *hook).cast::<()>().addr()
}

/// A moment, before which panics are not those of an attempt that begins now.
pub(super) fn moment() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Runs something and catches its panic.
pub(super) fn catch<T>(since: u64, run: impl FnOnce() -> T) -> Result<T, PanicNote> {
    LAST.set(None);
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        LAST.set(None);
        let found = describe(&*payload, since);
        // Dropping a payload runs code of the user, which may panic again.
        std::mem::forget(payload);
        found
    })
}

/// What is known of a panic that was caught.
fn describe(payload: &(dyn Any + Send), since: u64) -> PanicNote {
    let notes = lock(&NOTES);
    let text = text_of(payload);
    let recent = || {
        notes
            .iter()
            .rev()
            .filter(|note| note.number >= since && may_be_of_this_attempt(note))
    };
    let found = match text {
        Some(text) => recent()
            .find(|note| note.text == text.as_ptr().addr())
            .or_else(|| recent().find(|note| note.message == cut(text))),
        None => recent().find(|note| note.payload == payload.type_id()),
    };
    let mut known = found.map_or_else(
        || PanicNote {
            message: text
                .map_or("a panic whose payload is not text", cut)
                .to_owned(),
            location:
                "an unknown place (a task replaced the panic hook, or resumed a panic of its \
                own making)"
                    .to_owned(),
        },
        PanicRecord::to_wire,
    );
    // Where a thread failed and its failure became a panic here, what it said is the reason: "a
    // scoped thread panicked" is not.
    let own = found.map(|note| (note.number, note.thread));
    let first = notes.iter().find(|note| {
        note.number >= since
            && !SHARED.load(Ordering::Relaxed)
            && own.is_some_and(|(number, thread)| note.number < number && note.thread != thread)
    });
    if let Some(first) = first
        && !known.message.contains(&first.message)
    {
        let PanicRecord {
            thread_name,
            location,
            message,
            ..
        } = first;
        known.message = format!(
            "{} (before, thread \"{thread_name}\" panicked at {location}: {message})",
            known.message
        );
    }
    known
}

/// A thread that runs no attempt may work for any.
fn may_be_of_this_attempt(note: &PanicRecord) -> bool {
    let own = crash_note::current();
    own == 0 || note.attempt == 0 || note.attempt == own
}

fn note(info: &PanicHookInfo<'_>) {
    let text = text_of(info.payload());
    let message = text
        .map_or("a panic whose payload is not text", cut)
        .to_owned();
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let mut note = PanicRecord {
        number: 0,
        attempt: crash_note::current(),
        thread: thread.id(),
        thread_name: name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned(),
        text: text.map_or(0, |text| text.as_ptr().addr()),
        payload: info.payload().type_id(),
        message,
        location: info.location().map(ToString::to_string).unwrap_or_default(),
    };
    let mut notes = lock(&NOTES);
    if is_the_runtimes_own(info)
        && let Some(cause) = LAST
            .get()
            .and_then(|number| notes.iter().find(|cause| cause.number == number))
    {
        note.message = format!("{} ({})", cause.message, note.message);
        note.location.clone_from(&cause.location);
    }
    let wire = note.to_wire();
    note.number = COUNT.fetch_add(1, Ordering::Relaxed);
    LAST.set(Some(note.number));
    let attempt = note.attempt;
    if notes.len() == NOTES_MAX {
        notes.pop_front();
    }
    notes.push_back(note);
    drop(notes);
    if let (Ok(body), Some(mut control)) = (Codec::Postcard.encode(&wire), CONTROL.get()) {
        let mut frame = encode(kind::PANIC, attempt, body.len()).to_vec();
        frame.extend_from_slice(&body);
        // Where the pool is gone the message has no reader.
        control.write_all(&frame).ok();
    }
}

/// Whether the language's runtime gives up because a panic cannot go on (from a drop in a panic,
/// out of an `extern "C"` function): then the panic before it, on this thread, is what people need
/// to know.
fn is_the_runtimes_own(info: &PanicHookInfo<'_>) -> bool {
    info.location()
        .is_some_and(|location| location.file().ends_with("core/src/panicking.rs"))
}

fn text_of(payload: &(dyn Any + Send)) -> Option<&str> {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}
