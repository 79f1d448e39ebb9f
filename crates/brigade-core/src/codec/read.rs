//! [`Reader`]: a deserializer with what every format of ours asks for around what the format's own
//! crate does.
//!
//! Too deep is an error, not a stack that overflows; what [`Part`](super::write::Part) writes in
//! MessagePack in a form of its own is read back. Where that form is met by something that does not
//! know its type (`untagged`, `flatten`, ..), that is an error: guessing could give another value.
//! JSON is not read through this: its crate has a limit of depth, and nothing in it has a form of
//! its own.

mod elements;

use std::fmt;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::at::{At, MARK, NONE, RAW, SOME, UNIT, WIDE, too_deep};
use super::located_error::LocatedError;

pub(super) struct Reader<'p, D> {
    pub(super) inner: D,
    pub(super) at: At<'p>,
}

/// A visitor, and what holds where it looks.
struct Visit<'p, V> {
    visitor: V,
    at: At<'p>,
}

/// Elements, keys, values, variants.
struct ElementReader<'p, A> {
    inner: A,
    at: At<'p>,
}

struct Seed<'p, S> {
    seed: S,
    at: At<'p>,
}

macro_rules! forward {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            self.inner.$method(Visit { visitor, at: self.at }).map_err(LocatedError)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reader<'_, D> {
    type Error = LocatedError<D::Error>;

    forward! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_seq deserialize_map
        deserialize_identifier
    }

    fn is_human_readable(&self) -> bool {
        if self.at.is_packed() {
            !self.at.raw
        } else {
            self.inner.is_human_readable()
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.at.is_packed() {
            return self
                .inner
                .deserialize_any(Visit {
                    visitor,
                    at: At {
                        wide: true,
                        ..self.at
                    },
                })
                .map_err(LocatedError);
        }
        self.inner
            .deserialize_i128(Visit {
                visitor,
                at: self.at,
            })
            .map_err(LocatedError)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.at.is_packed() {
            return self
                .inner
                .deserialize_any(Visit {
                    visitor,
                    at: At {
                        wide: true,
                        ..self.at
                    },
                })
                .map_err(LocatedError);
        }
        self.inner
            .deserialize_u128(Visit {
                visitor,
                at: self.at,
            })
            .map_err(LocatedError)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let visit = Visit {
            visitor,
            at: self.at,
        };
        if self.at.is_packed() && self.at.in_some {
            return self
                .inner
                .deserialize_enum("", &[NONE, SOME], Nested(visit))
                .map_err(LocatedError);
        }
        self.inner.deserialize_option(visit).map_err(LocatedError)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let visit = Visit {
            visitor,
            at: self.at,
        };
        if self.at.is_packed() {
            self.inner.deserialize_any(visit)
        } else {
            self.inner.deserialize_unit(visit)
        }
        .map_err(LocatedError)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner
            .deserialize_unit_struct(
                name,
                Visit {
                    visitor,
                    at: self.at,
                },
            )
            .map_err(LocatedError)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let at = At {
            raw: name == RAW,
            ..self.at
        };
        self.inner
            .deserialize_newtype_struct(name, Visit { visitor, at })
            .map_err(LocatedError)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner
            .deserialize_tuple(
                len,
                Visit {
                    visitor,
                    at: self.at,
                },
            )
            .map_err(LocatedError)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner
            .deserialize_tuple_struct(
                name,
                len,
                Visit {
                    visitor,
                    at: self.at,
                },
            )
            .map_err(LocatedError)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner
            .deserialize_struct(
                name,
                fields,
                Visit {
                    visitor,
                    at: self.at,
                },
            )
            .map_err(LocatedError)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner
            .deserialize_enum(
                name,
                variants,
                Visit {
                    visitor,
                    at: self.at,
                },
            )
            .map_err(LocatedError)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let at = At {
            ignored: true,
            ..self.at
        };
        self.inner
            .deserialize_ignored_any(Visit { visitor, at })
            .map_err(LocatedError)
    }
}

impl<'p, V> Visit<'p, V> {
    /// A level further in.
    fn deeper<E: de::Error>(&self, at: impl FnOnce(At<'p>) -> Option<At<'p>>) -> Result<At<'p>, E> {
        at(self.at).ok_or_else(|| LocatedError::<E>::custom(too_deep()).0)
    }

    fn is_marked(&self, text: &str) -> bool {
        self.at.is_packed() && text.starts_with(MARK) && !self.at.ignored
    }

    /// Reads a form of our own.
    fn marked<'de, E: de::Error>(self, mark: &str) -> Result<V::Value, E>
    where
        V: Visitor<'de>,
    {
        match mark {
            UNIT if self.at.in_some => self.visitor.visit_unit(),
            NONE if self.at.in_some => self.visitor.visit_none(),
            _ if self.at.wide => {
                let number = mark.strip_prefix(WIDE).unwrap_or_default();
                match (number.parse::<u128>(), number.parse::<i128>()) {
                    (Ok(number), _) => self.visitor.visit_u128(number),
                    (_, Ok(number)) => self.visitor.visit_i128(number),
                    _ => Err(E::invalid_type(Unexpected::Str(mark), &self.visitor)),
                }
            }
            _ => {
                let text = "an Option within an Option, or a number of more than 64 bits, stands \
                    where its type cannot be told \
                            (in untagged, flatten or a tagged enum)";
                Err(LocatedError::<E>::custom(text).0)
            }
        }
    }
}

macro_rules! visit {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Visit<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_u8(u8)
        visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_i128(i128) visit_u128(u128)
        visit_f32(f32) visit_f64(f64) visit_char(char) visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        if self.is_marked(text) {
            self.marked(text)
        } else {
            self.visitor.visit_str(text)
        }
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<V::Value, E> {
        if self.is_marked(text) {
            self.marked(text)
        } else {
            self.visitor.visit_borrowed_str(text)
        }
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<V::Value, E> {
        if self.is_marked(&text) {
            self.marked(&text)
        } else {
            self.visitor.visit_string(text)
        }
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let at = self.deeper(At::some)?;
        self.visitor
            .visit_some(Reader { inner, at })
            .map_err(|told| told.0)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let at = self.deeper(At::through)?;
        self.visitor
            .visit_newtype_struct(Reader { inner, at })
            .map_err(|told| told.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let at = self.deeper(|at| at.inside(1))?;
        self.visitor
            .visit_seq(ElementReader { inner, at })
            .map_err(|told| told.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let at = self.deeper(|at| at.inside(1))?;
        self.visitor
            .visit_map(ElementReader { inner, at })
            .map_err(|told| told.0)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let at = self.deeper(|at| at.inside(1))?;
        self.visitor
            .visit_enum(ElementReader { inner, at })
            .map_err(|told| told.0)
    }
}

/// Visits an option within an option, which is written as an enum.
struct Nested<'p, V>(Visit<'p, V>);

impl<'de, V: Visitor<'de>> Visitor<'de> for Nested<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an Option within an Option")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        let Self(visit) = self;
        match data.variant::<OptionMarker>()? {
            (OptionMarker::None, variant) => {
                variant.unit_variant()?;
                visit.visitor.visit_none()
            }
            (OptionMarker::Some, variant) => {
                let at = visit.deeper(At::some)?;
                variant.newtype_variant_seed(NestedSome(Visit {
                    visitor: visit.visitor,
                    at,
                }))
            }
        }
    }
}

enum OptionMarker {
    None,
    Some,
}

impl<'de> Deserialize<'de> for OptionMarker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OptionMarkerVisitor;
        impl Visitor<'_> for OptionMarkerVisitor {
            type Value = OptionMarker;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an Option within an Option")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OptionMarker, E> {
                match text {
                    NONE => Ok(OptionMarker::None),
                    SOME => Ok(OptionMarker::Some),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_identifier(OptionMarkerVisitor)
    }
}

struct NestedSome<'p, V>(Visit<'p, V>);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for NestedSome<'_, V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Self(visit) = self;
        visit
            .visitor
            .visit_some(Reader {
                inner,
                at: visit.at,
            })
            .map_err(|told| told.0)
    }
}
