//! Types that are drawn, values of them, and how these are written.
//!
//! A [`Shape`] owns the shapes inside it. [`Shape::value`] draws a [`Data`] of it, and
//! [`Shape::of`] joins the two to what serde writes. `Data` without its shape cannot be written: it
//! keeps numbers by their bits and says nothing of names. Whatever is drawn comes from one
//! [`Draw`], so that a seed gives the same type and the same value again.

use std::rc::Rc;

use serde::ser::{
    SerializeMap as _, SerializeSeq as _, SerializeStruct as _, SerializeStructVariant as _,
    SerializeTuple as _, SerializeTupleStruct as _, SerializeTupleVariant as _,
};
use serde::{Serialize, Serializer};

use super::Derived;
use crate::payload::Bytes;

/// The name of every type, which no format of ours keeps.
pub(super) const TYPE: &str = "Generated";
/// Names of fields and of variants, in this order: what `rename` may give, too.
pub(super) static NAMES: [&str; 8] = ["a", "type", "", "an ü", "0", "c\"\\", "\u{0}", "null"];

#[derive(Debug)]
pub(super) enum Shape {
    Bool,
    I(u8),
    U(u8),
    F32,
    F64,
    Char,
    Text,
    /// Brigade's own bytes.
    Bytes,
    /// What serde calls bytes.
    RawBytes,
    Unit,
    UnitStruct,
    Option(Box<Shape>),
    Newtype(Box<Shape>),
    List(Box<Shape>),
    Tuple(Vec<Shape>),
    TupleStruct(Vec<Shape>),
    Map(Box<Shape>, Box<Shape>),
    Struct(Vec<DrawnField>),
    Enum(Vec<Variant>),
    /// A derived type around two others, by its number.
    Derived(u8, [Rc<Shape>; 2]),
}

#[derive(Debug)]
pub(super) struct DrawnField {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) presence: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Presence {
    Always,
    /// `default, skip_serializing_if = "Option::is_none"`
    SkippedIfNone,
    /// `skip`: the value is that of `Default`.
    Skipped,
}

#[derive(Debug)]
pub(super) enum Variant {
    /// `skip`: there are no values of it.
    Skipped,
    Unit(&'static str),
    Newtype(&'static str, Shape),
    Tuple(&'static str, Vec<Shape>),
    Struct(&'static str, Vec<DrawnField>),
}

/// Numbers are kept by their bits, so that each equals itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Bool(bool),
    I(i128),
    U(u128),
    F32(u32),
    F64(u64),
    Char(char),
    Text(String),
    Bytes(Vec<u8>),
    Nothing,
    None,
    /// In `Some` or a newtype.
    One(Box<Data>),
    /// Of lists, tuples and structs.
    Many(Vec<Data>),
    Map(Vec<(Data, Data)>),
    /// The position of the variant, skipped ones too.
    Variant(usize, Vec<Data>),
    Derived(Box<Derived>),
}

/// A small generator of numbers (SplitMix64); the packages have no test kit.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 1).unwrap() % limit
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    pub(super) fn text(&mut self) -> String {
        let texts = [
            "",
            "a",
            "null",
            "AAAA",
            "1",
            "-0.0",
            "NaN",
            "true",
            "\u{0}",
            "🦀\u{10ffff}",
            "\"\\\n",
            "type",
            "\u{0}brigade:none",
            "ünï",
            "[]",
            "x y",
        ];
        texts[self.below(texts.len())].to_owned()
    }

    /// Of so many bits, often at an end of what they hold.
    fn number(&mut self, bits: u8) -> u128 {
        let all = u128::MAX >> (128 - bits);
        match self.below(6) {
            0 => 0,
            1 => 1,
            2 => all,
            3 => all >> 1,
            4 => (all >> 1) + 1,
            _ => self.wide() & all,
        }
    }
}

impl Shape {
    /// How many kinds of [`Shape::around`] there are.
    pub(super) const AROUND: u8 = 8;

    /// A type around another.
    pub(super) fn around(kind: u8, inner: Self) -> Self {
        let inner_field = |shape| DrawnField {
            name: NAMES[0],
            shape,
            presence: Presence::Always,
        };
        match kind {
            0 => Self::Option(Box::new(inner)),
            1 => Self::Newtype(Box::new(inner)),
            2 => Self::List(Box::new(inner)),
            3 => Self::Tuple(vec![inner]),
            4 => Self::Map(Box::new(Self::Text), Box::new(inner)),
            5 => Self::Struct(vec![inner_field(inner)]),
            6 => Self::Enum(vec![Variant::Newtype(NAMES[0], inner)]),
            _ => Self::Enum(vec![Variant::Struct(NAMES[0], vec![inner_field(inner)])]),
        }
    }

    /// Its value with something in everything.
    pub(super) fn one(&self) -> Data {
        match self {
            Self::Option(inner) | Self::Newtype(inner) => Data::One(Box::new(inner.one())),
            Self::List(inner) => Data::Many(vec![inner.one()]),
            Self::Tuple(inner) => Data::Many(inner.iter().map(Self::one).collect()),
            Self::Struct(fields) => Data::Many(fields.iter().map(|f| f.shape.one()).collect()),
            Self::Map(_, inner) => Data::Map(vec![(Data::Text("k".to_owned()), inner.one())]),
            Self::Enum(variants) => match &variants[0] {
                Variant::Newtype(_, inner) => Data::Variant(0, vec![inner.one()]),
                Variant::Struct(_, fields) => {
                    Data::Variant(0, fields.iter().map(|f| f.shape.one()).collect())
                }
                _ => panic!("not made by `around`"),
            },
            _ => Data::U(7),
        }
    }

    /// A type of at most so many levels.
    pub(super) fn draw(draw: &mut Draw, levels: u8) -> Self {
        let bits = [8, 16, 32, 64, 128][draw.below(5)];
        let kinds = if levels == 0 { 11 } else { 21 };
        let inner = |draw: &mut Draw| Self::draw(draw, levels.saturating_sub(1));
        match draw.below(kinds) {
            0 => Self::Bool,
            1 => Self::I(bits),
            2 => Self::U(bits),
            3 => Self::F32,
            4 => Self::F64,
            5 => Self::Char,
            6 => Self::Text,
            7 => Self::Bytes,
            8 => Self::RawBytes,
            9 => Self::Unit,
            10 => Self::UnitStruct,
            11 | 12 => Self::Option(Box::new(inner(draw))),
            13 => Self::Newtype(Box::new(inner(draw))),
            14 => Self::List(Box::new(inner(draw))),
            15 => Self::Tuple((0..1 + draw.below(3)).map(|_| inner(draw)).collect()),
            16 => Self::TupleStruct((0..2 + draw.below(2)).map(|_| inner(draw)).collect()),
            17 => {
                let key = inner(draw);
                // In JSON a key is a text, so that an untagged key would be read as another
                // variant.
                let is_untagged = format!("{key:?}").contains("Derived");
                let key = if is_untagged { Self::Text } else { key };
                Self::Map(Box::new(key), Box::new(inner(draw)))
            }
            18 => Self::Struct(fields(draw, levels - 1)),
            19 => Self::Enum(variants(draw, levels - 1)),
            _ => {
                let number = u8::try_from(draw.below(4)).unwrap();
                Self::Derived(number, [Rc::new(inner(draw)), Rc::new(inner(draw))])
            }
        }
    }

    pub(super) fn value(&self, draw: &mut Draw) -> Data {
        let all = |shapes: &[Self], draw: &mut Draw| -> Vec<Data> {
            shapes.iter().map(|s| s.value(draw)).collect()
        };
        match self {
            Self::Bool => Data::Bool(draw.below(2) == 0),
            Self::I(bits) => {
                // Sign extended.
                let unused = 128 - u32::from(*bits);
                Data::I((draw.number(*bits) << unused).cast_signed() >> unused)
            }
            Self::U(bits) => Data::U(draw.number(*bits)),
            Self::F32 => {
                let some = [0.1, -0.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 3.0];
                let any = f32::from_bits(u32::try_from(draw.next() >> 32).unwrap());
                Data::F32(some.get(draw.below(9)).unwrap_or(&any).to_bits())
            }
            Self::F64 => {
                let some = [
                    0.1,
                    -0.0,
                    f64::NAN,
                    f64::NEG_INFINITY,
                    1e300,
                    f64::MIN_POSITIVE / 3.0,
                ];
                let any = f64::from_bits(draw.next());
                Data::F64(some.get(draw.below(9)).unwrap_or(&any).to_bits())
            }
            Self::Char => Data::Char(['a', '\0', '"', 'ü', '\u{10ffff}'][draw.below(5)]),
            Self::Text => Data::Text(draw.text()),
            Self::Bytes | Self::RawBytes => {
                let long = [0, 1, 3, 300][draw.below(4)];
                Data::Bytes((0..long).map(|_| draw.next().to_be_bytes()[0]).collect())
            }
            Self::Unit | Self::UnitStruct => Data::Nothing,
            Self::Option(_) if draw.below(3) == 0 => Data::None,
            Self::Option(inner) | Self::Newtype(inner) => Data::One(Box::new(inner.value(draw))),
            Self::List(inner) => {
                Data::Many((0..draw.below(4)).map(|_| inner.value(draw)).collect())
            }
            Self::Tuple(inner) | Self::TupleStruct(inner) => Data::Many(all(inner, draw)),
            Self::Map(key, inner) => Data::Map(
                (0..draw.below(4))
                    .map(|_| (key.value(draw), inner.value(draw)))
                    .collect(),
            ),
            Self::Struct(fields) => Data::Many(values(fields, draw)),
            Self::Enum(variants) => {
                let mut index = draw.below(variants.len());
                if matches!(variants[index], Variant::Skipped) {
                    // The last one never is.
                    index = variants.len() - 1;
                }
                let inner = match &variants[index] {
                    Variant::Skipped | Variant::Unit(_) => Vec::new(),
                    Variant::Newtype(_, inner) => vec![inner.value(draw)],
                    Variant::Tuple(_, inner) => all(inner, draw),
                    Variant::Struct(_, fields) => values(fields, draw),
                };
                Data::Variant(index, inner)
            }
            Self::Derived(number, types) => {
                Data::Derived(Box::new(Derived::draw(*number, types, draw)))
            }
        }
    }

    pub(super) fn of<'s>(&'s self, data: &'s Data) -> Typed<'s> {
        Typed { shape: self, data }
    }
}

fn fields(draw: &mut Draw, levels: u8) -> Vec<DrawnField> {
    let mut names = NAMES.iter();
    let mut fields = Vec::new();
    for _ in 0..=draw.below(4) {
        let shape = Shape::draw(draw, levels);
        let kind = draw.below(4);
        let (shape, presence) = match kind {
            0 => (Shape::U(8), Presence::Skipped),
            1 => (Shape::Option(Box::new(shape)), Presence::SkippedIfNone),
            _ => (shape, Presence::Always),
        };
        let name = if kind == 0 {
            "skipped"
        } else {
            names.next().copied().unwrap()
        };
        fields.push(DrawnField {
            name,
            shape,
            presence,
        });
    }
    fields
}

fn values(fields: &[DrawnField], draw: &mut Draw) -> Vec<Data> {
    let value = |field: &DrawnField| match field.presence {
        Presence::Skipped => Data::U(0),
        _ => field.shape.value(draw),
    };
    fields.iter().map(value).collect()
}

fn variants(draw: &mut Draw, levels: u8) -> Vec<Variant> {
    let count = 1 + draw.below(4);
    let mut names = NAMES.iter();
    let mut variants = Vec::new();
    for number in 0..count {
        let is_last = number + 1 == count;
        let kind = draw.below(5);
        if kind == 4 && !is_last {
            variants.push(Variant::Skipped);
            continue;
        }
        let name = names.next().copied().unwrap();
        variants.push(match kind {
            0 => Variant::Newtype(name, Shape::draw(draw, levels)),
            1 => Variant::Tuple(name, (0..2).map(|_| Shape::draw(draw, levels)).collect()),
            2 => Variant::Struct(name, fields(draw, levels)),
            _ => Variant::Unit(name),
        });
    }
    variants
}

/// A value with its type, which is what writes it.
pub(super) struct Typed<'s> {
    shape: &'s Shape,
    data: &'s Data,
}

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match (self.shape, self.data) {
            (Shape::Bool, Data::Bool(value)) => value.serialize(s),
            (Shape::I(bits), Data::I(value)) => signed(*bits, *value, s),
            (Shape::U(bits), Data::U(value)) => unsigned(*bits, *value, s),
            (Shape::F32, Data::F32(bits)) => f32::from_bits(*bits).serialize(s),
            (Shape::F64, Data::F64(bits)) => f64::from_bits(*bits).serialize(s),
            (Shape::Char, Data::Char(value)) => value.serialize(s),
            (Shape::Text, Data::Text(value)) => value.serialize(s),
            (Shape::Bytes, Data::Bytes(value)) => Bytes::from(value.clone()).serialize(s),
            (Shape::RawBytes, Data::Bytes(value)) => s.serialize_bytes(value),
            (Shape::Unit, Data::Nothing) => s.serialize_unit(),
            (Shape::UnitStruct, Data::Nothing) => s.serialize_unit_struct(TYPE),
            (Shape::Option(_), Data::None) => s.serialize_none(),
            (Shape::Option(inner), Data::One(value)) => s.serialize_some(&inner.of(value)),
            (Shape::Newtype(inner), Data::One(value)) => {
                s.serialize_newtype_struct(TYPE, &inner.of(value))
            }
            (Shape::List(inner), Data::Many(values)) => {
                let mut list = s.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&inner.of(value))?;
                }
                list.end()
            }
            (Shape::Tuple(shapes), Data::Many(values)) => {
                let mut tuple = s.serialize_tuple(values.len())?;
                for (shape, value) in shapes.iter().zip(values) {
                    tuple.serialize_element(&shape.of(value))?;
                }
                tuple.end()
            }
            (Shape::TupleStruct(shapes), Data::Many(values)) => {
                let mut tuple = s.serialize_tuple_struct(TYPE, values.len())?;
                for (shape, value) in shapes.iter().zip(values) {
                    tuple.serialize_field(&shape.of(value))?;
                }
                tuple.end()
            }
            (Shape::Map(key, inner), Data::Map(entries)) => {
                let mut map = s.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(&key.of(name), &inner.of(value))?;
                }
                map.end()
            }
            (Shape::Struct(fields), Data::Many(values)) => {
                let mut map = s.serialize_struct(TYPE, written(fields, values))?;
                for (field, value) in fields.iter().zip(values) {
                    if is_written(field, value) {
                        map.serialize_field(field.name, &field.shape.of(value))?;
                    } else if field.presence == Presence::SkippedIfNone {
                        map.skip_field(field.name)?;
                    }
                }
                map.end()
            }
            (Shape::Enum(variants), Data::Variant(index, values)) => {
                variant(&variants[*index], u32::try_from(*index).unwrap(), values, s)
            }
            (Shape::Derived(_, types), Data::Derived(value)) => value.write(types.clone(), s),
            (shape, data) => panic!("{data:?} is no {shape:?}"),
        }
    }
}

fn variant<S: Serializer>(
    variant: &Variant,
    index: u32,
    values: &[Data],
    s: S,
) -> Result<S::Ok, S::Error> {
    match variant {
        Variant::Skipped => panic!("never a value"),
        Variant::Unit(name) => s.serialize_unit_variant(TYPE, index, name),
        Variant::Newtype(name, inner) => {
            s.serialize_newtype_variant(TYPE, index, name, &inner.of(&values[0]))
        }
        Variant::Tuple(name, shapes) => {
            let mut tuple = s.serialize_tuple_variant(TYPE, index, name, shapes.len())?;
            for (shape, value) in shapes.iter().zip(values) {
                tuple.serialize_field(&shape.of(value))?;
            }
            tuple.end()
        }
        Variant::Struct(name, fields) => {
            let mut map = s.serialize_struct_variant(TYPE, index, name, written(fields, values))?;
            for (field, value) in fields.iter().zip(values) {
                if is_written(field, value) {
                    map.serialize_field(field.name, &field.shape.of(value))?;
                } else if field.presence == Presence::SkippedIfNone {
                    map.skip_field(field.name)?;
                }
            }
            map.end()
        }
    }
}

fn is_written(field: &DrawnField, value: &Data) -> bool {
    match field.presence {
        Presence::Always => true,
        Presence::SkippedIfNone => *value != Data::None,
        Presence::Skipped => false,
    }
}

fn written(fields: &[DrawnField], values: &[Data]) -> usize {
    let pairs = fields.iter().zip(values);
    pairs
        .filter(|(field, value)| is_written(field, value))
        .count()
}

fn signed<S: Serializer>(bits: u8, value: i128, s: S) -> Result<S::Ok, S::Error> {
    match bits {
        8 => i8::try_from(value).unwrap().serialize(s),
        16 => i16::try_from(value).unwrap().serialize(s),
        32 => i32::try_from(value).unwrap().serialize(s),
        64 => i64::try_from(value).unwrap().serialize(s),
        _ => value.serialize(s),
    }
}

fn unsigned<S: Serializer>(bits: u8, value: u128, s: S) -> Result<S::Ok, S::Error> {
    match bits {
        8 => u8::try_from(value).unwrap().serialize(s),
        16 => u16::try_from(value).unwrap().serialize(s),
        32 => u32::try_from(value).unwrap().serialize(s),
        64 => u64::try_from(value).unwrap().serialize(s),
        _ => value.serialize(s),
    }
}
