//! How what is inside a value is read: elements, keys, values and variants.
//!
//! A format hands out the parts of a list, a map or an enum. [`ElementReader`] stands around each
//! of these, and a [`Seed`] around the seed of each part, so that the part is read by a [`Reader`]
//! as well.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::{ElementReader, Reader, Seed, Visit};
use crate::codec::located_error::LocatedError;

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed
            .deserialize(Reader { inner, at: self.at })
            .map_err(|told| told.0)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ElementReader<'_, A> {
    type Error = LocatedError<A::Error>;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        self.inner
            .next_element_seed(Seed { seed, at: self.at })
            .map_err(LocatedError)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ElementReader<'_, A> {
    type Error = LocatedError<A::Error>;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        self.inner
            .next_key_seed(Seed { seed, at: self.at })
            .map_err(LocatedError)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        self.inner
            .next_value_seed(Seed { seed, at: self.at })
            .map_err(LocatedError)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 'p, A: EnumAccess<'de>> EnumAccess<'de> for ElementReader<'p, A> {
    type Error = LocatedError<A::Error>;
    type Variant = ElementReader<'p, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Self::Error> {
        let (value, inner) = self
            .inner
            .variant_seed(Seed { seed, at: self.at })
            .map_err(LocatedError)?;
        Ok((value, ElementReader { inner, at: self.at }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for ElementReader<'_, A> {
    type Error = LocatedError<A::Error>;

    fn unit_variant(self) -> Result<(), Self::Error> {
        self.inner.unit_variant().map_err(LocatedError)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        self.inner
            .newtype_variant_seed(Seed { seed, at: self.at })
            .map_err(LocatedError)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner
            .tuple_variant(
                len,
                Visit {
                    visitor,
                    at: self.at,
                },
            )
            .map_err(LocatedError)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner
            .struct_variant(
                fields,
                Visit {
                    visitor,
                    at: self.at,
                },
            )
            .map_err(LocatedError)
    }
}
