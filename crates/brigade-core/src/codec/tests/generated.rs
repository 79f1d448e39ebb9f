//! Types and values at random: each arrives equal or is an error, in each format.
//!
//! A [`Shape`] is a type as serde sees it, with what its attributes change: fields that are
//! skipped, always or if they are nothing, variants that are skipped, names that are no
//! identifiers. [`Data`] is a value of a shape; it is written and read with the very calls that
//! derived code makes. What serde keeps in between (tags inside, tags next to the content, no tags,
//! flattened fields) is code of its own, so [`Derived`] types are derived ones around values of two
//! shapes ([`Any`]).
//!
//! `BRIGADE_SEED` repeats a run; `BRIGADE_FULL=1` draws a hundred times as many.

mod draw;
mod read;
mod shape;
mod typed;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::rc::Rc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::draw::Draw;
use self::shape::{Data, Shape};
use super::{Codec, DEPTH_MAX};
use crate::error::ErrorKind;

const COUNT: u64 = 4_000;
const COUNT_FULL: u64 = 400_000;
/// Deep values are written and read by recursion.
const STACK_BYTES: usize = 64 << 20;

thread_local! {
    /// The types that `Any<0>` and `Any<1>` are now.
    static TYPES: RefCell<[Rc<Shape>; 2]> =
        RefCell::new([Rc::new(Shape::Unit), Rc::new(Shape::Unit)]);
}

fn with_types<R>(types: [Rc<Shape>; 2], act: impl FnOnce() -> R) -> R {
    let before = TYPES.replace(types);
    let result = act();
    TYPES.replace(before);
    result
}

/// A value of a type that was drawn.
#[derive(Clone, Debug, PartialEq)]
struct Any<const N: usize>(Data);

impl<const N: usize> Serialize for Any<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shape = TYPES.with_borrow(|types| types[N].clone());
        shape.of(&self.0).serialize(serializer)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Any<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let shape = TYPES.with_borrow(|types| types[N].clone());
        serde::de::DeserializeSeed::deserialize(&*shape, deserializer).map(Any)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Internal {
    Empty,
    #[serde(skip)]
    #[expect(dead_code, reason = "it shifts the numbers of the others")]
    Hidden,
    Named {
        a: Any<0>,
        #[serde(rename = "the b")]
        b: Any<1>,
    },
    One {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        a: Option<Any<0>>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Empty,
    #[serde(rename = "1")]
    One(Any<0>),
    Two(Any<0>, Any<1>),
    Named {
        a: Any<0>,
        b: Any<1>,
    },
}

/// No value of one variant looks like one of another: a number, a text, a list, a map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    List(Vec<Any<0>>),
    Named { a: Any<0>, b: Any<1> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    before: Any<0>,
    #[serde(flatten)]
    inner: FlatInner,
    after: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, Any<1>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FlatInner {
    x: Any<1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<Any<0>>,
}

/// A value of a derived type around two drawn ones.
#[derive(Clone, Debug, PartialEq)]
enum Derived {
    Internal(Internal),
    Adjacent(Adjacent),
    Untagged(Untagged),
    Flat(Flat),
}

impl Derived {
    fn draw(number: u8, types: &[Rc<Shape>; 2], draw: &mut Draw) -> Self {
        let a = |draw: &mut Draw| Any::<0>(types[0].value(draw));
        let b = |draw: &mut Draw| Any::<1>(types[1].value(draw));
        let which = draw.below(4);
        match (number, which) {
            (0, 0) => Self::Internal(Internal::Empty),
            (0, 1) => Self::Internal(Internal::One { a: None }),
            (0, 2) => Self::Internal(Internal::One { a: Some(a(draw)) }),
            (0, _) => Self::Internal(Internal::Named {
                a: a(draw),
                b: b(draw),
            }),
            (1, 0) => Self::Adjacent(Adjacent::Empty),
            (1, 1) => Self::Adjacent(Adjacent::One(a(draw))),
            (1, 2) => Self::Adjacent(Adjacent::Two(a(draw), b(draw))),
            (1, _) => Self::Adjacent(Adjacent::Named {
                a: a(draw),
                b: b(draw),
            }),
            (2, 0) => Self::Untagged(Untagged::Number(draw.next().cast_signed())),
            (2, 1) => Self::Untagged(Untagged::Text(draw.text())),
            (2, 2) => Self::Untagged(Untagged::List((0..3).map(|_| a(draw)).collect())),
            (2, _) => Self::Untagged(Untagged::Named {
                a: a(draw),
                b: b(draw),
            }),
            _ => Self::Flat(Flat {
                before: a(draw),
                inner: FlatInner {
                    x: b(draw),
                    y: which.is_multiple_of(2).then(|| a(draw)),
                },
                after: 7,
                rest: (0..which)
                    .map(|key| (format!("rest{key}"), b(draw)))
                    .collect(),
            }),
        }
    }

    fn write<S: Serializer>(
        &self,
        types: [Rc<Shape>; 2],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        with_types(types, || match self {
            Self::Internal(value) => value.serialize(serializer),
            Self::Adjacent(value) => value.serialize(serializer),
            Self::Untagged(value) => value.serialize(serializer),
            Self::Flat(value) => value.serialize(serializer),
        })
    }

    fn read<'de, D: Deserializer<'de>>(
        number: u8,
        types: [Rc<Shape>; 2],
        deserializer: D,
    ) -> Result<Self, D::Error> {
        with_types(types, || match number {
            0 => Internal::deserialize(deserializer).map(Self::Internal),
            1 => Adjacent::deserialize(deserializer).map(Self::Adjacent),
            2 => Untagged::deserialize(deserializer).map(Self::Untagged),
            _ => Flat::deserialize(deserializer).map(Self::Flat),
        })
    }
}

/// Whether it arrived; panics if another value did.
fn equal_or_error(codec: Codec, value: &Any<0>) -> Result<(), String> {
    let bytes = match codec.encode(value) {
        Ok(bytes) => bytes,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
            return Err(error.to_string());
        }
    };
    match codec.decode::<Any<0>>(&bytes) {
        Ok(back) => {
            assert_eq!(back, *value, "in {codec}: {bytes:02x?}");
            Ok(())
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
            Err(error.to_string())
        }
    }
}

/// What brokers keep: the arguments came in another format, are written as JSON, kept as text and
/// read by who runs the job.
fn equal_or_error_by_way_of_a_store(value: &Any<0>) -> Result<(), String> {
    let text = |error: crate::Error| error.to_string();
    let packed = Codec::default().encode(value).map_err(text)?;
    let recoded: Any<0> = Codec::default().decode(&packed).map_err(text)?;
    let kept = Codec::json_text(&recoded).map_err(text)?;
    // A store hands on any JSON text as it is.
    let raw: Box<serde_json::value::RawValue> =
        Codec::Json.decode(kept.as_bytes()).map_err(text)?;
    let again = Codec::json_text(&raw).map_err(text)?;
    let back: Any<0> = Codec::Json.decode(again.as_bytes()).map_err(text)?;
    assert_eq!(back, *value, "by way of {again}");
    Ok(())
}

fn check(seed: u64) -> [u64; 3] {
    let mut draw = Draw::new(seed);
    let shape = Rc::new(Shape::draw(&mut draw, 4));
    let value = Any::<0>(shape.value(&mut draw));
    let shown = format!("seed {seed}: {shape:?}");
    let is_plain = !shown.contains("Derived") && !format!("{value:?}").contains("\\0brigade:");
    let is_compact = is_plain && !shown.contains("Skipped");
    with_types([shape.clone(), shape], || {
        // So that a panic says which type it was.
        let _shown = PrintOnPanic(&shown);
        let packed = equal_or_error(Codec::MessagePack, &value);
        assert!(
            packed.is_ok() || !is_plain,
            "{value:?} does not arrive: {packed:?}"
        );
        let json = equal_or_error(Codec::Json, &value);
        let kept = equal_or_error_by_way_of_a_store(&value);
        assert!(kept.is_ok() || json.is_err() || packed.is_err(), "{kept:?}");
        if is_compact {
            equal_or_error(Codec::Postcard, &value).ok();
        }
        [packed.is_ok(), json.is_ok(), kept.is_ok()].map(u64::from)
    })
}

/// Printed if a test panics.
struct PrintOnPanic<'s>(&'s str);

impl Drop for PrintOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn on_a_large_stack(act: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(act)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn any_value_of_any_type_arrives_equal_or_is_an_error() {
    on_a_large_stack(|| {
        let given = env::var("BRIGADE_SEED").ok().and_then(|s| s.parse().ok());
        let first = given.unwrap_or_else(|| u64::from(std::process::id()) << 32);
        println!("BRIGADE_SEED={first}");
        let count = match env::var("BRIGADE_FULL") {
            Ok(full) if full == "1" => COUNT_FULL,
            _ => COUNT,
        };
        let mut arrived = [0; 3];
        for seed in first..first + count {
            for (sum, one) in arrived.iter_mut().zip(check(seed)) {
                *sum += one;
            }
        }
        println!("of {count}, in MessagePack, in JSON, by way of a store: {arrived:?}");
        // That nothing is refused for no reason.
        assert!(arrived.iter().all(|sum| *sum > count / 4), "{arrived:?}");
    });
}

#[test]
fn a_type_within_a_type_at_any_depth_arrives_equal_or_is_too_deep() {
    on_a_large_stack(|| {
        for depth in [1, 20, 60, DEPTH_MAX - 2, DEPTH_MAX, DEPTH_MAX + 1, 300] {
            for kind in 0..Shape::AROUND {
                let shape = (0..depth).fold(Shape::U(8), |inner, _| Shape::around(kind, inner));
                let shape = Rc::new(shape);
                let value = Any::<0>(shape.one());
                with_types([shape.clone(), shape], || {
                    for codec in [Codec::MessagePack, Codec::Json, Codec::Postcard] {
                        let result = equal_or_error(codec, &value);
                        let is_refused = result.as_ref().is_err_and(|e| e.contains("levels deep"));
                        assert!(
                            is_refused || depth <= DEPTH_MAX,
                            "{codec} {kind} {depth}: {result:?}"
                        );
                    }
                });
            }
        }
    });
}
