//! What a task is to the library: arguments in, one of a few answers out.

use std::any::type_name;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::Call;
use crate::codec::Codec;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::outcome::{Failure, Pass};
use crate::wire::Refused;

/// A task by name and types, for a caller that does not have its code:
/// `const HELLO: Task<(i64, i64), i64> = Task::new("hello");` and `HELLO.call((1, 2))`.
pub struct Task<A, R> {
    name: &'static str,
    codec: Codec,
    types: PhantomData<fn(A) -> R>,
}

impl<A: Args, R: DeserializeOwned> Task<A, R> {
    /// The task that is registered under `name` where the call will run.
    pub const fn new(name: &'static str) -> Self {
        Self { name, codec: Codec::Postcard, types: PhantomData }
    }

    /// Uses another format than postcard.
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    #[cfg(feature = "broker")]
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Describes a call of the task.
    pub fn call(&self, args: A) -> Call<R> {
        Call::named(self.name, self.codec, &args, Some(signature::<A, R>))
    }
}

/// Positional arguments: a tuple of up to 12 owned serde types.
pub trait Args: Serialize + DeserializeOwned + Sized + private::Sealed {
    #[doc(hidden)]
    fn encode(&self, codec: Codec) -> Result<Vec<u8>, Error> {
        codec.encode(self)
    }

    #[doc(hidden)]
    fn decode(codec: Codec, payload: &[u8]) -> Result<Self, Error> {
        codec.decode(payload)
    }
}

mod private {
    pub trait Sealed {}
}

impl private::Sealed for () {}

impl Args for () {
    /// In JSON no arguments are an empty array, as any other arguments are an array, not `null`.
    fn encode(&self, codec: Codec) -> Result<Vec<u8>, Error> {
        match codec {
            Codec::Json => Ok(b"[]".to_vec()),
            Codec::Postcard => Ok(Vec::new()),
        }
    }

    fn decode(codec: Codec, payload: &[u8]) -> Result<Self, Error> {
        match codec {
            Codec::Json => codec.decode::<[(); 0]>(payload).map(|[]| ()),
            Codec::Postcard => codec.decode(payload),
        }
    }
}

/// A function item or a capture-free closure that takes `A` as its arguments.
pub trait Function<A>: Copy + Send + Sync + 'static {
    /// What it returns.
    type Output;

    #[doc(hidden)]
    fn apply(&self, args: A) -> Self::Output;
}

impl<F, R> Function<()> for F
where
    F: Fn() -> R + Copy + Send + Sync + 'static,
{
    type Output = R;

    fn apply(&self, (): ()) -> R {
        self()
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        impl<$($name: Serialize + DeserializeOwned),+> private::Sealed for ($($name,)+) {}
        impl<$($name: Serialize + DeserializeOwned),+> Args for ($($name,)+) {}
        impl<Fun, Out, $($name),+> Function<($($name,)+)> for Fun
        where
            Fun: Fn($($name),+) -> Out + Copy + Send + Sync + 'static,
        {
            type Output = Out;

            #[expect(non_snake_case, reason = "one name for a type and its value")]
            fn apply(&self, ($($name,)+): ($($name,)+)) -> Out {
                self($($name),+)
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);

/// The types of a task as text. It compares equal between processes of one build.
#[doc(hidden)]
pub fn signature<A, R>() -> &'static str {
    type_name::<fn(A) -> R>()
}

/// A task that has been given its arguments.
#[doc(hidden)]
pub enum Invocation {
    Now(Returned),
    Future(Pin<Box<dyn Future<Output = Returned> + Send>>),
}

impl Invocation {
    pub fn now<A: Args>(codec: Codec, payload: &[u8], run: impl FnOnce(A) -> Returned) -> Self {
        Self::Now(match A::decode(codec, payload) {
            Ok(args) => run(args),
            Err(error) => Returned::bad_arguments(&error),
        })
    }

    pub fn future<A: Args, F>(codec: Codec, payload: &[u8], run: impl FnOnce(A) -> F) -> Self
    where
        F: Future<Output = Returned> + Send + 'static,
    {
        match A::decode(codec, payload) {
            Ok(args) => Self::Future(Box::pin(run(args))),
            Err(error) => Self::Now(Returned::bad_arguments(&error)),
        }
    }
}

/// How an attempt ended by its own return.
#[doc(hidden)]
pub enum Returned {
    Done(Vec<u8>),
    Failed(Box<Failure>),
    Passed(String),
    Refused(Refusal),
}

/// Why a call was not carried; what it says stays between pool and worker.
#[doc(hidden)]
pub struct Refusal(pub(crate) Box<Refused>);

impl Refusal {
    pub(crate) fn new(refused: Refused) -> Self {
        Self(Box::new(refused))
    }
}

impl Returned {
    pub fn of_value<T: Serialize>(codec: Codec, value: T) -> Self {
        match codec.encode(&value) {
            Ok(bytes) => Self::Done(bytes),
            Err(error) => Self::Refused(Refusal::new(Refused::Unencodable(error.to_string()))),
        }
    }

    pub fn of_result<T, E>(codec: Codec, result: Result<T, E>) -> Self
    where
        T: Serialize,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match result {
            Ok(value) => Self::of_value(codec, value),
            Err(error) => {
                let error: Box<dyn std::error::Error + Send + Sync> = error.into();
                match Pass::find(&*error) {
                    Some(reason) => Self::Passed(reason),
                    None => Self::Failed(Box::new(Failure::from_error(&*error, type_name::<E>()))),
                }
            }
        }
    }

    fn bad_arguments(error: &Error) -> Self {
        debug_assert_eq!(error.kind(), ErrorKind::Decode, "only decoding fails here");
        Self::Refused(Refusal::new(Refused::BadArguments(error.to_string())))
    }
}

/// Runs `F`, which has no state, on encoded arguments. Its address is what `pool.run` sends.
pub(crate) fn invoke_function<F, A>(_cx: Context, codec: Codec, payload: &[u8]) -> Invocation
where
    A: Args,
    F: Function<A>,
    F::Output: Serialize,
{
    let function = crate::address::stateless::<F>();
    Invocation::now(codec, payload, |args: A| Returned::of_value(codec, function.apply(args)))
}
