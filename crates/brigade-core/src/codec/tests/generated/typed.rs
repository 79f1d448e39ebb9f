//! [`Typed`]: a value with its type, as serde writes it.
//!
//! A [`Data`] is written by its [`Shape`], with the calls that derived code makes: a field that is
//! skipped is not counted, and one that is skipped for being nothing is named to the format. A
//! value that is none of its shape is a fault of the test, and panics.

use serde::ser::{
    SerializeMap as _, SerializeSeq as _, SerializeStruct as _, SerializeStructVariant as _,
    SerializeTuple as _, SerializeTupleStruct as _, SerializeTupleVariant as _,
};
use serde::{Serialize, Serializer};

use super::shape::{Data, DrawnField, Presence, Shape, TYPE, Variant};
use crate::payload::Bytes;

impl Shape {
    pub(super) fn of<'s>(&'s self, data: &'s Data) -> Typed<'s> {
        Typed { shape: self, data }
    }
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
