//! Types that are drawn, and values of them.
//!
//! A [`Shape`] owns the shapes inside it. [`Shape::value`] draws a [`Data`] of it, and
//! [`Shape::of`] joins the two to what serde writes. `Data` without its shape cannot be written: it
//! keeps numbers by their bits and says nothing of names. Whatever is drawn comes from one
//! [`Draw`], so that a seed gives the same type and the same value again.

use std::rc::Rc;

use super::Derived;
use super::draw::Draw;

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
