//! [`Part`]: a value on its way into a format, with what every format of ours asks for around what
//! the format's own crate does.
//!
//! Too deep is an error, not a stack that overflows; JSON has no NaN, no infinity and no `Some` of
//! nothing, so these are errors there, which say where; MessagePack gets a form for `Some` of
//! nothing and for numbers of more than 64 bits. What a type serializes is handed on unchanged
//! otherwise.

use std::fmt;

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::at::{At, MARK, NONE, Name, PathStep, RAW, RAW_JSON, SOME, UNIT, WIDE, too_deep};
use super::located_error::LocatedError;

/// A value, and where it stands.
pub(super) struct Part<'p, T: ?Sized> {
    pub(super) value: &'p T,
    pub(super) at: At<'p>,
}

impl<T: Serialize + ?Sized> Serialize for Part<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value
            .serialize(Writer {
                inner: serializer,
                at: self.at,
            })
            .map_err(|told| told.0)
    }
}

struct Writer<'p, S> {
    inner: S,
    at: At<'p>,
}

impl<'p, S: Serializer> Writer<'p, S> {
    fn deeper(&self, levels: u16) -> Result<At<'p>, LocatedError<S::Error>> {
        self.at.inside(levels).ok_or_else(|| self.too_deep())
    }

    fn too_deep(&self) -> LocatedError<S::Error> {
        LocatedError::custom(format_args!("{}{}", too_deep(), self.at))
    }

    fn finite(&self, is_finite: bool) -> Result<(), LocatedError<S::Error>> {
        if is_finite || !self.at.is_json() {
            return Ok(());
        }
        Err(LocatedError::custom(format_args!(
            "JSON has no NaN and no infinity{}",
            self.at
        )))
    }

    /// What would be written as nothing, where that would be taken for `None`.
    fn nothing(self, what: &str, mark: &'static str) -> Result<S::Ok, LocatedError<S::Error>> {
        if self.at.is_packed() {
            return self
                .inner
                .serialize_unit_variant("", 0, mark)
                .map_err(LocatedError);
        }
        Err(LocatedError::custom(format_args!(
            "JSON writes Some of {what} as null, which is None{}",
            self.at
        )))
    }
}

/// The elements of something, on their way.
struct Parts<'p, C> {
    inner: C,
    at: At<'p>,
    index: usize,
}

impl<'p, C> Parts<'p, C> {
    fn new(inner: C, at: At<'p>) -> Self {
        Self {
            inner,
            at,
            index: 0,
        }
    }

    fn next(&mut self) -> usize {
        self.index += 1;
        self.index - 1
    }
}

macro_rules! scalars {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, value: $type) -> Result<Self::Ok, Self::Error> {
            self.inner.$method(value).map_err(LocatedError)
        })*
    };
}

impl<'p, S: Serializer> Serializer for Writer<'p, S> {
    type Ok = S::Ok;
    type Error = LocatedError<S::Error>;
    type SerializeSeq = Parts<'p, S::SerializeSeq>;
    type SerializeTuple = Parts<'p, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'p, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'p, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'p, S::SerializeMap>;
    type SerializeStruct = Parts<'p, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'p, S::SerializeStructVariant>;

    scalars! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_u8(u8) serialize_u16(u16)
        serialize_u32(u32) serialize_u64(u64) serialize_char(char) serialize_bytes(&[u8])
    }

    fn is_human_readable(&self) -> bool {
        // Of what serde keeps in between (untagged, flatten, tags within) it says that it is human
        // readable, so that MessagePack must be, too.
        if self.at.is_packed() {
            !self.at.raw
        } else {
            self.inner.is_human_readable()
        }
    }

    fn serialize_i128(self, value: i128) -> Result<Self::Ok, Self::Error> {
        match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) if self.at.is_packed() => self.inner.serialize_i64(value),
            (_, Ok(value)) if self.at.is_packed() => self.inner.serialize_u64(value),
            _ if self.at.is_packed() => self.inner.serialize_str(&format!("{WIDE}{value}")),
            _ => self.inner.serialize_i128(value),
        }
        .map_err(LocatedError)
    }

    fn serialize_u128(self, value: u128) -> Result<Self::Ok, Self::Error> {
        match u64::try_from(value) {
            Ok(value) if self.at.is_packed() => self.inner.serialize_u64(value),
            _ if self.at.is_packed() => self.inner.serialize_str(&format!("{WIDE}{value}")),
            _ => self.inner.serialize_u128(value),
        }
        .map_err(LocatedError)
    }

    fn serialize_f32(self, value: f32) -> Result<Self::Ok, Self::Error> {
        self.finite(value.is_finite())?;
        self.inner.serialize_f32(value).map_err(LocatedError)
    }

    fn serialize_f64(self, value: f64) -> Result<Self::Ok, Self::Error> {
        self.finite(value.is_finite())?;
        self.inner.serialize_f64(value).map_err(LocatedError)
    }

    fn serialize_str(self, text: &str) -> Result<Self::Ok, Self::Error> {
        if self.at.is_packed() && text.starts_with(MARK) {
            return Err(LocatedError::custom(format_args!(
                "a text may not begin with {MARK:?}{}",
                self.at
            )));
        }
        if self.at.is_json() && self.at.raw && self.at.in_some && text.trim_ascii() == "null" {
            return self.nothing("null", UNIT);
        }
        self.inner.serialize_str(text).map_err(LocatedError)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, text: &T) -> Result<Self::Ok, Self::Error> {
        self.inner.collect_str(text).map_err(LocatedError)
    }

    fn serialize_none(self) -> Result<Self::Ok, Self::Error> {
        if self.at.hides_in_some() {
            self.nothing("None", NONE)
        } else {
            self.inner.serialize_none().map_err(LocatedError)
        }
    }

    fn serialize_unit(self) -> Result<Self::Ok, Self::Error> {
        if self.at.hides_in_some() {
            self.nothing("()", UNIT)
        } else {
            self.inner.serialize_unit().map_err(LocatedError)
        }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Self::Ok, Self::Error> {
        let Some(at) = self.at.some() else {
            return Err(self.too_deep());
        };
        let is_nested = self.at.hides_in_some() && self.at.is_packed();
        let part = Part { value, at };
        if is_nested {
            self.inner.serialize_newtype_variant("", 0, SOME, &part)
        } else {
            self.inner.serialize_some(&part)
        }
        .map_err(LocatedError)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<Self::Ok, Self::Error> {
        // MessagePack writes it as an empty list, JSON as null.
        if self.at.hides_in_some() && self.at.is_json() {
            return self.nothing(name, UNIT);
        }
        self.inner.serialize_unit_struct(name).map_err(LocatedError)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<Self::Ok, Self::Error> {
        self.inner
            .serialize_unit_variant(name, index, variant)
            .map_err(LocatedError)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Self::Ok, Self::Error> {
        let Some(at) = self.at.through() else {
            return Err(self.too_deep());
        };
        let at = At {
            raw: name == RAW,
            ..at
        };
        self.inner
            .serialize_newtype_struct(name, &Part { value, at })
            .map_err(LocatedError)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Self::Ok, Self::Error> {
        let at = self.deeper(1)?;
        let step = PathStep {
            name: Name::Field(variant),
            before: at.path,
        };
        self.inner
            .serialize_newtype_variant(
                name,
                index,
                variant,
                &Part {
                    value,
                    at: at.step(&step),
                },
            )
            .map_err(LocatedError)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, Self::Error> {
        let at = self.deeper(1)?;
        self.inner
            .serialize_seq(len)
            .map(|inner| Parts::new(inner, at))
            .map_err(LocatedError)
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, Self::Error> {
        let at = self.deeper(1)?;
        self.inner
            .serialize_tuple(len)
            .map(|inner| Parts::new(inner, at))
            .map_err(LocatedError)
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, Self::Error> {
        let at = self.deeper(1)?;
        self.inner
            .serialize_tuple_struct(name, len)
            .map(|inner| Parts::new(inner, at))
            .map_err(LocatedError)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, Self::Error> {
        let at = self.deeper(2)?;
        self.inner
            .serialize_tuple_variant(name, index, variant, len)
            .map(|inner| Parts::new(inner, at))
            .map_err(LocatedError)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, Self::Error> {
        let at = self.deeper(1)?;
        self.inner
            .serialize_map(len)
            .map(|inner| Parts::new(inner, at))
            .map_err(LocatedError)
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, Self::Error> {
        let inside = self.deeper(1)?;
        let at = if name == RAW_JSON {
            At {
                raw: true,
                in_some: self.at.in_some,
                ..inside
            }
        } else {
            inside
        };
        self.inner
            .serialize_struct(name, len)
            .map(|inner| Parts::new(inner, at))
            .map_err(LocatedError)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, Self::Error> {
        let at = self.deeper(2)?;
        self.inner
            .serialize_struct_variant(name, index, variant, len)
            .map(|inner| Parts::new(inner, at))
            .map_err(LocatedError)
    }
}

macro_rules! lists {
    ($($of:ident $method:ident)*) => {
        $(impl<C: $of> $of for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = LocatedError<C::Error>;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Self::Error> {
                let step = PathStep { name: Name::Index(self.next()), before: self.at.path };
                self.inner.$method(&Part { value, at: self.at.step(&step) }).map_err(LocatedError)
            }

            fn end(self) -> Result<Self::Ok, Self::Error> {
                self.inner.end().map_err(LocatedError)
            }
        })*
    };
}

lists! {
    SerializeSeq serialize_element
    SerializeTuple serialize_element
    SerializeTupleStruct serialize_field
    SerializeTupleVariant serialize_field
}

macro_rules! structs {
    ($($of:ident)*) => {
        $(impl<C: $of> $of for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = LocatedError<C::Error>;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Self::Error> {
                let step = PathStep { name: Name::Field(name), before: self.at.path };
                self.inner.serialize_field(name, &Part { value, at: self.at.step(&step) }).map_err(LocatedError)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), Self::Error> {
                self.inner.skip_field(name).map_err(LocatedError)
            }

            fn end(self) -> Result<Self::Ok, Self::Error> {
                self.inner.end().map_err(LocatedError)
            }
        })*
    };
}

structs! { SerializeStruct SerializeStructVariant }

impl<C: SerializeMap> SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = LocatedError<C::Error>;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Self::Error> {
        let step = PathStep {
            name: Name::Entry(self.next()),
            before: self.at.path,
        };
        self.inner
            .serialize_key(&Part {
                value: key,
                at: self.at.step(&step),
            })
            .map_err(LocatedError)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Self::Error> {
        let step = PathStep {
            name: Name::Entry(self.index.saturating_sub(1)),
            before: self.at.path,
        };
        self.inner
            .serialize_value(&Part {
                value,
                at: self.at.step(&step),
            })
            .map_err(LocatedError)
    }

    fn end(self) -> Result<Self::Ok, Self::Error> {
        self.inner.end().map_err(LocatedError)
    }
}
