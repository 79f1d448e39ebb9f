//! What `#[task]` asks of a function beyond its syntax, so that the compiler answers with what to
//! write.
//!
//! A macro sees names and no types. These types say at compile time whether a type is a `Result`
//! and whether a future may go to another thread; both by that the compiler prefers what is nearer:
//! an item of the type itself to one of a trait, a method that needs fewer references to one that
//! needs more.

use std::marker::PhantomData;

/// Whether a type is a `Result`, whatever name it has.
#[doc(hidden)]
pub struct IsResult<T>(PhantomData<T>);

impl<T, E> IsResult<Result<T, E>> {
    pub const YES: bool = true;
}

/// Stands back where the type has an item of that name itself.
#[doc(hidden)]
pub trait NoResult {
    const YES: bool = false;
}

impl<T> NoResult for IsResult<T> {}

/// Asks whether a value may go to another thread.
#[doc(hidden)]
pub struct SendProbe<'a, T>(pub &'a T);

#[doc(hidden)]
pub struct Sendable;

#[doc(hidden)]
pub struct Unsendable;

#[doc(hidden)]
pub trait MaySend {
    fn told(&self) -> Sendable;
}

impl<T: Send> MaySend for &SendProbe<'_, T> {
    fn told(&self) -> Sendable {
        Sendable
    }
}

#[doc(hidden)]
pub trait MayNotSend {
    fn told(&self) -> Unsendable;
}

impl<T> MayNotSend for SendProbe<'_, T> {
    fn told(&self) -> Unsendable {
        Unsendable
    }
}

/// What a future of a task must be.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "an async task runs on any thread of its worker, and this one holds something across \
        an `.await` that may not leave its thread",
    label = "this future is not `Send`",
    note = "let go of it before the `.await` (an `Rc`, a `RefCell` borrow, a `std` lock guard), \
        use an `Arc` or a lock of tokio instead, or make the task a plain `fn`"
)]
pub trait TaskFuture {}

impl TaskFuture for Sendable {}

#[doc(hidden)]
pub fn future_of_a_task(_: impl TaskFuture) {}
