//! [`Args`]: the positional arguments of a task.
//!
//! Arguments travel as a list, in whichever format. A list that ends early leaves the arguments at
//! its end `None`, where they are an `Option`: so a task can be given one more argument while
//! callers of the old form are still there. Any other number of arguments is an error, and names
//! the argument.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor,
};
use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::codec::Codec;
use crate::error::Error;

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

macro_rules! args {
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
    };
}

/// Implements something for tuples of 1 to 12 types.
macro_rules! for_tuples {
    ($implement:ident) => {
        $implement!(A);
        $implement!(A B);
        $implement!(A B C);
        $implement!(A B C D);
        $implement!(A B C D E);
        $implement!(A B C D E F);
        $implement!(A B C D E F G);
        $implement!(A B C D E F G H);
        $implement!(A B C D E F G H I);
        $implement!(A B C D E F G H I J);
        $implement!(A B C D E F G H I J K);
        $implement!(A B C D E F G H I J K L);
    };
}

pub(crate) use for_tuples;

for_tuples!(args);

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
}
