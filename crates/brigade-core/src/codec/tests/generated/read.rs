//! How values of a drawn type are read: with the calls that derived code makes.
//!
//! A [`Shape`] is the seed of its own values. [`ReadValue`] takes what a format hands it, by the
//! kind of the shape; [`ReadFields`] reads structs and variants with fields, in any order or as a
//! list; [`Identifier`] finds a name or a number among those that are known. A field that is
//! missing has its default, if its attributes give it one.

use std::fmt;

use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde::{Deserialize, Deserializer};

use super::Derived;
use super::shape::{Data, DrawnField, NAMES, Presence, Shape, TYPE, Variant};
use crate::payload::Bytes;

impl<'de> DeserializeSeed<'de> for &Shape {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Data, D::Error> {
        let read = ReadValue(self);
        match self {
            Shape::Bool => bool::deserialize(d).map(Data::Bool),
            Shape::I(bits) => signed(*bits, d).map(Data::I),
            Shape::U(bits) => unsigned(*bits, d).map(Data::U),
            Shape::F32 => f32::deserialize(d).map(|value| Data::F32(value.to_bits())),
            Shape::F64 => f64::deserialize(d).map(|value| Data::F64(value.to_bits())),
            Shape::Char => char::deserialize(d).map(Data::Char),
            Shape::Text => String::deserialize(d).map(Data::Text),
            Shape::Bytes => Bytes::deserialize(d).map(|bytes| Data::Bytes(bytes.to_vec())),
            Shape::RawBytes => d.deserialize_byte_buf(read),
            Shape::Unit => <()>::deserialize(d).map(|()| Data::Nothing),
            Shape::UnitStruct => d.deserialize_unit_struct(TYPE, read),
            Shape::Option(_) => d.deserialize_option(read),
            Shape::Newtype(_) => d.deserialize_newtype_struct(TYPE, read),
            Shape::List(_) => d.deserialize_seq(read),
            Shape::Tuple(shapes) => d.deserialize_tuple(shapes.len(), read),
            Shape::TupleStruct(shapes) => d.deserialize_tuple_struct(TYPE, shapes.len(), read),
            Shape::Map(..) => d.deserialize_map(read),
            Shape::Struct(fields) => {
                d.deserialize_struct(TYPE, &NAMES[..names(fields).len()], ReadFields(fields))
            }
            Shape::Enum(variants) => {
                let known = variants.iter().filter_map(Variant::name).count();
                d.deserialize_enum(TYPE, &NAMES[..known], read)
            }
            Shape::Derived(number, types) => {
                Derived::read(*number, types.clone(), d).map(|value| Data::Derived(Box::new(value)))
            }
        }
    }
}

impl Variant {
    /// `None` if it is skipped.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Skipped => None,
            Self::Unit(name)
            | Self::Newtype(name, _)
            | Self::Tuple(name, _)
            | Self::Struct(name, _) => Some(name),
        }
    }
}

/// Names that are read, in their order.
fn names(fields: &[DrawnField]) -> Vec<&'static str> {
    let is_read = |field: &&DrawnField| field.presence != Presence::Skipped;
    fields
        .iter()
        .filter(is_read)
        .map(|field| field.name)
        .collect()
}

struct ReadValue<'s>(&'s Shape);

impl ReadValue<'_> {
    fn unexpected<E: serde::de::Error, T>(&self, what: &str) -> Result<T, E> {
        Err(E::custom(format_args!("{what} is no {:?}", self.0)))
    }
}

impl<'de> Visitor<'de> for ReadValue<'_> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Data, E> {
        match self.0 {
            Shape::Option(_) => Ok(Data::None),
            Shape::UnitStruct => Ok(Data::Nothing),
            _ => self.unexpected("nothing"),
        }
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Data, E> {
        match self.0 {
            Shape::Option(_) => Ok(Data::None),
            _ => self.unexpected("none"),
        }
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Data, D::Error> {
        match self.0 {
            Shape::Option(inner) => inner.deserialize(d).map(|value| Data::One(Box::new(value))),
            _ => self.unexpected("some"),
        }
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Data, D::Error> {
        match self.0 {
            Shape::Newtype(inner) => inner.deserialize(d).map(|value| Data::One(Box::new(value))),
            _ => self.unexpected("a newtype"),
        }
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Data, E> {
        match self.0 {
            Shape::RawBytes => Ok(Data::Bytes(bytes.to_vec())),
            _ => self.unexpected("bytes"),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
        match self.0 {
            Shape::RawBytes => {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Data::Bytes(bytes))
            }
            Shape::List(inner) => {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element_seed(&**inner)? {
                    values.push(value);
                }
                Ok(Data::Many(values))
            }
            Shape::Newtype(inner) => match seq.next_element_seed(&**inner)? {
                Some(value) => Ok(Data::One(Box::new(value))),
                None => Err(A::Error::invalid_length(0, &"one")),
            },
            Shape::Tuple(shapes) | Shape::TupleStruct(shapes) => {
                elements(shapes.iter(), seq).map(Data::Many)
            }
            _ => self.unexpected("a list"),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let Shape::Map(key, inner) = self.0 else {
            return self.unexpected("a map");
        };
        let mut entries = Vec::new();
        while let Some(name) = map.next_key_seed(&**key)? {
            entries.push((name, map.next_value_seed(&**inner)?));
        }
        Ok(Data::Map(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Data, A::Error> {
        let Shape::Enum(variants) = self.0 else {
            return self.unexpected("an enum");
        };
        let known = || {
            variants
                .iter()
                .enumerate()
                .filter(|(_, v)| v.name().is_some())
        };
        let known_names = known().filter_map(|(_, variant)| variant.name()).collect();
        let (found, access) = data.variant_seed(Identifier(known_names))?;
        let Some((index, variant)) = found.and_then(|found| known().nth(found)) else {
            return Err(A::Error::custom("an unknown variant"));
        };
        let values = match variant {
            Variant::Skipped | Variant::Unit(_) => access.unit_variant().map(|()| Vec::new()),
            Variant::Newtype(_, inner) => access.newtype_variant_seed(inner).map(|one| vec![one]),
            Variant::Tuple(_, shapes) => access.tuple_variant(shapes.len(), Elements(shapes)),
            Variant::Struct(_, fields) => {
                let names = &NAMES[..names(fields).len()];
                match access.struct_variant(names, ReadFields(fields))? {
                    Data::Many(values) => Ok(values),
                    _ => Err(A::Error::custom("no fields")),
                }
            }
        };
        Ok(Data::Variant(index, values?))
    }
}

fn elements<'de, 's, A: SeqAccess<'de>>(
    shapes: impl Iterator<Item = &'s Shape>,
    mut seq: A,
) -> Result<Vec<Data>, A::Error> {
    shapes
        .enumerate()
        .map(|(index, shape)| match seq.next_element_seed(shape)? {
            Some(value) => Ok(value),
            None => Err(A::Error::invalid_length(index, &"more elements")),
        })
        .collect()
}

struct Elements<'s>(&'s [Shape]);

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<Data>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} elements", self.0.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<Data>, A::Error> {
        elements(self.0.iter(), seq)
    }
}

/// The fields of a struct or of a variant.
struct ReadFields<'s>(&'s [DrawnField]);

impl ReadFields<'_> {
    /// What a field has that was not read.
    fn missing<E: serde::de::Error>(field: &DrawnField) -> Result<Data, E> {
        match field.presence {
            Presence::Always => Err(E::missing_field(field.name)),
            Presence::SkippedIfNone => Ok(Data::None),
            Presence::Skipped => Ok(Data::U(0)),
        }
    }
}

impl<'de> Visitor<'de> for ReadFields<'_> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a struct")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
        let value = |field: &DrawnField| match field.presence {
            Presence::Skipped => Self::missing(field),
            _ => match seq.next_element_seed(&field.shape)? {
                Some(value) => Ok(value),
                None => Self::missing(field),
            },
        };
        self.0
            .iter()
            .map(value)
            .collect::<Result<_, _>>()
            .map(Data::Many)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let names = names(self.0);
        let is_read = |field: &&DrawnField| field.presence != Presence::Skipped;
        let mut found: Vec<Option<Data>> = names.iter().map(|_| None).collect();
        while let Some(name) = map.next_key_seed(Identifier(names.clone()))? {
            let Some(index) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if found[index].is_some() {
                return Err(A::Error::duplicate_field(names[index]));
            }
            let field = self.0.iter().filter(is_read).nth(index).unwrap();
            found[index] = Some(map.next_value_seed(&field.shape)?);
        }
        let mut found = found.into_iter();
        let value = |field: &DrawnField| match field.presence {
            Presence::Skipped => Self::missing(field),
            _ => found
                .next()
                .flatten()
                .map_or_else(|| Self::missing(field), Ok),
        };
        self.0
            .iter()
            .map(value)
            .collect::<Result<_, _>>()
            .map(Data::Many)
    }
}

/// The position of a name among those that are known.
struct Identifier(Vec<&'static str>);

impl<'de> DeserializeSeed<'de> for Identifier {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Identifier {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(usize::try_from(number).ok().filter(|n| *n < self.0.len()))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == text))
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == bytes))
    }
}

fn signed<'de, D: Deserializer<'de>>(bits: u8, d: D) -> Result<i128, D::Error> {
    match bits {
        8 => i8::deserialize(d).map(Into::into),
        16 => i16::deserialize(d).map(Into::into),
        32 => i32::deserialize(d).map(Into::into),
        64 => i64::deserialize(d).map(Into::into),
        _ => i128::deserialize(d),
    }
}

fn unsigned<'de, D: Deserializer<'de>>(bits: u8, d: D) -> Result<u128, D::Error> {
    match bits {
        8 => u8::deserialize(d).map(Into::into),
        16 => u16::deserialize(d).map(Into::into),
        32 => u32::deserialize(d).map(Into::into),
        64 => u64::deserialize(d).map(Into::into),
        _ => u128::deserialize(d),
    }
}
