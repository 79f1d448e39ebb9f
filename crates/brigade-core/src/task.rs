//! What a task is to the library: arguments in, one of a few answers out.

mod checks;

use std::any::type_name;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor,
};
use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::call::Call;
use crate::codec::Codec;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::outcome::{Failure, Pass};
use crate::refused::Refused;

#[doc(hidden)]
pub use checks::{IsResult, MayNotSend, MaySend, NoResult, SendProbe, future_of_a_task};

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
        Self {
            name,
            codec: Codec::MessagePack,
            types: PhantomData,
        }
    }

    /// Uses another format than MessagePack.
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    #[doc(hidden)]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Describes a call of the task.
    pub fn call(&self, args: A) -> Call<R> {
        Call::named(self.name, self.codec, args, Some(signature::<A, R>))
    }
}

/// Positional arguments: a tuple of up to 12 owned serde types that are `Send`.
///
/// They travel as a list. Arguments that are missing at its end are `None` where they are an
/// `Option`, so that a task can be given one more without breaking who calls it; any other number
/// of arguments is refused.
pub trait Args: Serialize + DeserializeOwned + Sized + Send + 'static + private::Sealed {
    #[doc(hidden)]
    const COUNT: usize;

    #[doc(hidden)]
    fn write<L: SerializeSeq>(&self, list: L) -> Result<L::Ok, L::Error>;

    #[doc(hidden)]
    fn read<'de, L: SeqAccess<'de>>(list: List<L>) -> Result<Self, L::Error>;

    #[doc(hidden)]
    fn encode(&self, codec: Codec) -> Result<Vec<u8>, Error> {
        codec.encode(&ArgumentList(self))
    }

    #[doc(hidden)]
    fn decode(codec: Codec, payload: &[u8]) -> Result<Self, Error> {
        codec.decode(payload).map(|Read(args)| args)
    }
}

mod private {
    pub trait Sealed {}
}

/// Arguments as a list.
struct ArgumentList<'a, A>(&'a A);

impl<A: Args> Serialize for ArgumentList<'_, A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer.serialize_seq(Some(A::COUNT))?)
    }
}

struct Read<A>(A);

impl<'de, A: Args> Deserialize<'de> for Read<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Reading(PhantomData)).map(Self)
    }
}

struct Reading<A>(PhantomData<fn() -> A>);

impl<'de, A: Args> Visitor<'de> for Reading<A> {
    type Value = A;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", counted(A::COUNT))
    }

    fn visit_seq<L: SeqAccess<'de>>(self, list: L) -> Result<A, L::Error> {
        A::read(List {
            list,
            number: 0,
            count: A::COUNT,
        })
    }
}

fn counted(arguments: usize) -> String {
    if arguments == 1 {
        "1 argument".to_owned()
    } else {
        format!("{arguments} arguments")
    }
}

/// Arguments that are being read.
#[doc(hidden)]
pub struct List<L> {
    list: L,
    number: usize,
    count: usize,
}

impl<'de, L: SeqAccess<'de>> List<L> {
    /// The next argument; `None` of an option where the list has come to its end.
    fn next<T: Deserialize<'de>>(&mut self) -> Result<T, L::Error> {
        self.number += 1;
        let (number, count) = (self.number, self.count);
        match self.list.next_element() {
            Ok(Some(argument)) => Ok(argument),
            Ok(None) => T::deserialize(Missing).map_err(|Absent(_)| {
                let (given, wanted) = (number - 1, counted(count));
                L::Error::custom(format_args!(
                    "there are {given} of {wanted}, and number {number} \
                    cannot be left out: it is no Option"
                ))
            }),
            Err(error) => Err(L::Error::custom(format_args!(
                "argument {number} of {count}: {error}"
            ))),
        }
    }

    fn end(mut self) -> Result<(), L::Error> {
        // Formats that do not describe themselves cannot skip a value, but know how many there are.
        let more = self.list.size_hint().is_some_and(|more| more > 0)
            || self.list.next_element::<IgnoredAny>()?.is_some();
        if more {
            Err(L::Error::custom(format_args!(
                "there are more than {}",
                counted(self.count)
            )))
        } else {
            Ok(())
        }
    }
}

/// What stands for an argument that is not there.
struct Missing;

/// It is no option.
#[derive(Debug)]
struct Absent(());

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is missing")
    }
}

impl std::error::Error for Absent {}

impl de::Error for Absent {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(())
    }
}

impl<'de> Deserializer<'de> for Missing {
    type Error = Absent;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Absent> {
        Err(Absent(()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Absent> {
        visitor.visit_none()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

impl private::Sealed for () {}

impl Args for () {
    const COUNT: usize = 0;

    fn write<L: SerializeSeq>(&self, list: L) -> Result<L::Ok, L::Error> {
        list.end()
    }

    fn read<'de, L: SeqAccess<'de>>(list: List<L>) -> Result<Self, L::Error> {
        list.end()
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
        impl<$($name: Serialize + DeserializeOwned + Send + 'static),+> private::Sealed for ($($name,)+) {}
        impl<$($name: Serialize + DeserializeOwned + Send + 'static),+> Args for ($($name,)+) {
            const COUNT: usize = [$(stringify!($name)),+].len();

            #[expect(non_snake_case, reason = "one name for a type and its value")]
            fn write<Lis: SerializeSeq>(&self, mut list: Lis) -> Result<Lis::Ok, Lis::Error> {
                let ($($name,)+) = self;
                $(list.serialize_element($name)?;)+
                list.end()
            }

            #[expect(non_snake_case, reason = "one name for a type and its value")]
            fn read<'de, Lis: SeqAccess<'de>>(mut list: List<Lis>) -> Result<Self, Lis::Error> {
                $(let $name = list.next()?;)+
                list.end()?;
                Ok(($($name,)+))
            }
        }
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

/// Whether a call of these types may be made of a task of those: they are the same, or the task has
/// more arguments at its end which are all an `Option`.
pub fn fits(call: &str, task: &str) -> bool {
    if call == task {
        return true;
    }
    let (Some((given, result)), Some((wanted, result_too))) = (split(call), split(task)) else {
        return false;
    };
    let (given, wanted) = (arguments(given), arguments(wanted));
    let is_option =
        |argument: &&str| argument.starts_with(type_name::<Option<()>>().trim_end_matches("<()>"));
    result == result_too
        && wanted.starts_with(&given)
        && wanted[given.len()..].iter().all(is_option)
}

/// Arguments and result of `fn((A, B)) -> R`.
fn split(signature: &str) -> Option<(&str, &str)> {
    let rest = signature.strip_prefix("fn(")?;
    let end = closing(rest)?;
    let (tuple, result) = (&rest[..end], &rest[end + 1..]);
    Some((tuple.strip_prefix('(')?.strip_suffix(')')?, result))
}

/// Where the bracket is closed that is open at the beginning.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
        None
    })
}

/// What stands between the commas that are in no brackets.
fn arguments(tuple: &str) -> Vec<&str> {
    let (mut depth, mut before) = (0_i32, '\0');
    let is_comma = |c: char| {
        match c {
            '(' | '[' | '<' => depth += 1,
            // The one of an arrow closes nothing.
            '>' if before == '-' => {}
            ')' | ']' | '>' => depth -= 1,
            _ => {}
        }
        before = c;
        c == ',' && depth == 0
    };
    tuple
        .split(is_comma)
        .map(str::trim)
        .filter(|argument| !argument.is_empty())
        .collect()
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
pub struct Refusal(pub Box<Refused>);

impl Refusal {
    pub fn new(refused: Refused) -> Self {
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
pub fn invoke_function<F, A>(_cx: Context, codec: Codec, payload: &[u8]) -> Invocation
where
    A: Args,
    F: Function<A>,
    F::Output: Serialize,
{
    let function = crate::address::stateless::<F>();
    Invocation::now(codec, payload, |args: A| {
        Returned::of_value(codec, function.apply(args))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Codec; 3] = [Codec::MessagePack, Codec::Json, Codec::Postcard];

    /// Sent as `A`, read as `B`.
    fn sent<A: Args, B: Args>(codec: Codec, args: &A) -> Result<B, String> {
        B::decode(codec, &args.encode(codec).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_that_are_missing_at_the_end_are_none_if_they_are_options() {
        type More = (u8, Option<String>, Option<Option<u8>>);
        for codec in ALL {
            assert_eq!(sent::<_, More>(codec, &(7_u8,)).unwrap(), (7, None, None));
            assert_eq!(
                sent::<_, More>(codec, &(7_u8, Some("x".to_owned()))).unwrap(),
                (7, Some("x".to_owned()), None)
            );
            assert_eq!(sent::<_, (Option<u8>,)>(codec, &()).unwrap(), (None,));
            assert_eq!(sent::<_, ()>(codec, &()), Ok(()));
            let text = sent::<_, More>(codec, &()).unwrap_err();
            assert!(
                text.contains("there are 0 of 3 arguments, and number 1 cannot be left out"),
                "{text}"
            );
            let text = sent::<_, (u8, Option<u8>, u8)>(codec, &(7_u8,)).unwrap_err();
            assert!(text.contains("number 3 cannot be left out"), "{text}");
            assert!(
                sent::<_, (u8, ())>(codec, &(7_u8,)).is_err(),
                "a unit is no option"
            );
        }
    }

    #[test]
    fn one_argument_too_many_is_refused_in_every_format() {
        for codec in ALL {
            let text = sent::<_, (u8,)>(codec, &(7_u8, Option::<u8>::None)).unwrap_err();
            assert!(text.contains("there are more than 1 argument"), "{text}");
            assert!(sent::<_, ()>(codec, &(7_u8,)).is_err());
        }
    }

    #[test]
    fn an_argument_that_does_not_fit_is_named() {
        for codec in [Codec::MessagePack, Codec::Json] {
            let text = sent::<_, (u8, i64)>(codec, &(7_u8, "x".to_owned())).unwrap_err();
            assert!(text.contains("argument 2 of 2"), "{text}");
        }
    }

    #[test]
    fn a_call_fits_a_task_that_has_more_arguments_only_if_they_are_options_at_its_end() {
        let fit = |call: fn() -> &'static str, task: fn() -> &'static str| fits(call(), task());
        type One = (std::collections::BTreeMap<u8, (u8, fn(u8) -> u8)>,);
        type Two = (
            std::collections::BTreeMap<u8, (u8, fn(u8) -> u8)>,
            Option<(u8, u8)>,
        );
        assert!(
            fit(signature::<One, u8>, signature::<Two, u8>)
                && fit(
                    signature::<(), u8>,
                    signature::<(Option<u8>, Option<()>), u8>
                )
        );
        assert!(
            !fit(signature::<One, u8>, signature::<Two, u16>)
                && !fit(signature::<Two, u8>, signature::<One, u8>)
        );
        assert!(
            !fit(signature::<(u8,), ()>, signature::<(u8, u8), ()>)
                && !fit(signature::<(u8,), ()>, signature::<(Option<u8>, u8), ()>)
        );
    }
}
