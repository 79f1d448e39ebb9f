//! [`Bytes`]: binary data as an argument or a result.
//!
//! A type of our own around [`bytes::Bytes`], for two reasons: compact formats carry it as one run
//! of bytes and text formats as base64 (RFC 4648, with padding) instead of an array of numbers; and
//! how it is decoded stays ours to make cheaper.
//!
//! Which of the two it is says the format. MessagePack calls itself human readable (see
//! `codec::write`) and carries raw bytes all the same, so there they travel as a newtype whose name
//! says that (`codec::RAW`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::codec::RAW;

/// Binary data of at least this, and of a quarter of what it is decoded from, is not copied out of
/// that. Of less, a copy costs little, and a part could keep far more memory than its own.
const SHARED_BYTES_MIN: usize = 64 << 10;

thread_local! {
    /// What is being decoded on this thread. Serde passes a slice of it and nothing to share it by.
    static SOURCE: RefCell<bytes::Bytes> = const { RefCell::new(bytes::Bytes::new()) };
    /// Whether it is a format in which texts are never binary data.
    static PACKED: Cell<bool> = const { Cell::new(false) };
}

/// Decodes from a format in which binary data is never a text. Where serde keeps values in between
/// (`untagged`, ..) it does not say which format they are from, and a text that happens to be
/// base64 would be taken for binary data.
pub fn packed<R>(decode: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            PACKED.set(self.0);
        }
    }
    let _restore = Restore(PACKED.replace(true));
    decode()
}

/// Decodes with `decode`; large [`Bytes`] in the value then share the memory of `source`.
pub fn sharing<R>(source: &bytes::Bytes, decode: impl FnOnce(&[u8]) -> R) -> R {
    struct Restore(bytes::Bytes);
    impl Drop for Restore {
        fn drop(&mut self) {
            SOURCE.set(std::mem::take(&mut self.0));
        }
    }
    let _restore = Restore(SOURCE.replace(source.clone()));
    decode(source)
}

/// The part of what is being decoded that lies at these bytes, if they are worth it and do.
fn shared(bytes: &[u8]) -> Option<bytes::Bytes> {
    let within = |source: &bytes::Bytes| {
        let (whole, part) = (source.as_ptr_range(), bytes.as_ptr_range());
        let is_within = whole.start <= part.start && part.end <= whole.end;
        (is_within && bytes.len() >= source.len() / 4).then(|| source.slice_ref(bytes))
    };
    (bytes.len() >= SHARED_BYTES_MIN)
        .then(|| SOURCE.with_borrow(within))
        .flatten()
}

/// Cheaply cloned binary data, sent as one run of bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Bytes(bytes::Bytes);

impl Bytes {
    /// An empty value.
    pub const fn new() -> Self {
        Self(bytes::Bytes::new())
    }

    /// Data that lives as long as the program, without a copy.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(bytes::Bytes::from_static(bytes))
    }

    /// A copy of these bytes.
    pub fn copy_from_slice(bytes: &[u8]) -> Self {
        Self(bytes::Bytes::copy_from_slice(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self(bytes::Bytes::from_static(bytes))
    }
}

impl From<bytes::Bytes> for Bytes {
    fn from(bytes: bytes::Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Bytes> for bytes::Bytes {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.0.into()
    }
}

impl fmt::Debug for Bytes {
    /// The length and the first bytes: a payload must not flood a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.0[..self.0.len().min(16)];
        write!(f, "Bytes({} B, {head:02x?}", self.0.len())?;
        f.write_str(if head.len() < self.0.len() {
            "..)"
        } else {
            ")"
        })
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(RAW, &SharedSlice(&self.0))
    }
}

struct SharedSlice<'a>(&'a [u8]);

impl Serialize for SharedSlice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&STANDARD.encode(self.0))
        } else {
            serializer.serialize_bytes(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(RAW, RawOrText)
    }
}

struct RawOrText;

impl<'de> Visitor<'de> for RawOrText {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes, which are base64 in text formats")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(self)
        } else {
            deserializer.deserialize_byte_buf(self)
        }
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(
            shared(bytes).unwrap_or_else(|| bytes.to_vec().into()),
        ))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(bytes.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        if PACKED.get() {
            return Err(E::invalid_type(de::Unexpected::Str(text), &self));
        }
        STANDARD.decode(text).map(Into::into).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bytes_share_the_memory_that_they_are_decoded_from_and_small_ones_do_not() {
        for (length, is_shared) in [(SHARED_BYTES_MIN - 1, false), (SHARED_BYTES_MIN, true)] {
            let value = (7_u8, Bytes::from(vec![3; length]), 9_u8);
            let packed = bytes::Bytes::from(postcard::to_stdvec(&value).unwrap());
            let decoded = sharing(&packed, |packed| {
                postcard::from_bytes::<(u8, Bytes, u8)>(packed).unwrap()
            });
            assert!(decoded == value);
            assert_eq!(
                packed.as_ptr_range().contains(&decoded.1.as_ptr()),
                is_shared
            );
            // What is decoded elsewhere or later is not taken for a part of it.
            let other = postcard::from_bytes::<(u8, Bytes, u8)>(&packed).unwrap();
            assert!(other == value && !packed.as_ptr_range().contains(&other.1.as_ptr()));
        }
    }

    #[test]
    fn bytes_travel_raw_in_postcard_and_as_base64_in_json() {
        let bytes = Bytes::from(vec![0, 1, 255]);
        let packed = postcard::to_stdvec(&bytes).unwrap();
        assert_eq!(packed, [3, 0, 1, 255]);
        assert_eq!(postcard::from_bytes::<Bytes>(&packed).unwrap(), bytes);
        let text = serde_json::to_string(&bytes).unwrap();
        assert_eq!(text, "\"AAH/\"");
        assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap(), bytes);
        assert!(serde_json::from_str::<Bytes>("\"*\"").is_err());
    }
}
