//! The data formats of arguments, results and progress.
//!
//! Only data travels, never code or type names. Each message names its format, so all may be used
//! side by side. A value arrives equal or is an error: decoding refuses bytes that are left over,
//! writing and reading refuse a value that is nested too deep, and a value that a format has no
//! form for is an error where it is written (`write`). The formats themselves are crates; `write`
//! and `read` stand around them.

mod at;
mod format;
mod located_error;
mod read;
mod write;

use std::fmt;

use rmp_serde::decode::Error as PackError;
use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, Visitor};

use self::at::At;
use self::read::Reader;
use self::write::Part;
use crate::error::{Error, ErrorKind};
use crate::payload;

#[cfg(test)]
use at::DEPTH_MAX;
pub use at::RAW;

pub use format::Codec;

impl Codec {
    #[doc(hidden)]
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, Error> {
        located_error::begin(self == Self::Postcard);
        let part = Part {
            value,
            at: At::begin(self),
        };
        match self {
            Self::Postcard => postcard::to_stdvec(&part).map_err(|e| self.unencodable(e)),
            Self::Json => serde_json::to_vec(&part).map_err(|e| self.unencodable(e)),
            Self::MessagePack => {
                let mut bytes = Vec::new();
                part.serialize(&mut rmp_serde::Serializer::new(&mut bytes).with_struct_map())
                    .map_err(|e| self.unencodable(e))?;
                Ok(bytes)
            }
        }
    }

    /// As JSON text.
    #[doc(hidden)]
    pub fn json_text<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
        located_error::begin(false);
        serde_json::to_string(&Part {
            value,
            at: At::begin(Self::Json),
        })
        .map_err(|e| Self::Json.unencodable(e))
    }

    #[doc(hidden)]
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Error> {
        located_error::begin(self == Self::Postcard);
        match self {
            Self::Postcard => self.decode_postcard(bytes),
            Self::Json => serde_json::from_slice(bytes).map_err(|e| self.undecodable(e)),
            Self::MessagePack => self.decode_packed(bytes),
        }
    }

    fn decode_postcard<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Error> {
        let mut source = postcard::Deserializer::from_bytes(bytes);
        let value = T::deserialize(Reader {
            inner: &mut source,
            at: At::begin(self),
        })
        .map_err(|told| match told.0 {
            postcard::Error::WontImplement => Error::new(
                ErrorKind::Decode,
                "decode a value from postcard: its type needs a format that describes itself, use \
                    the default one or #[task(codec = \"json\")]",
            ),
            e => self.undecodable(e),
        })?;
        match source.finalize() {
            Ok([]) => Ok(value),
            Ok(rest) => Err(Error::new(
                ErrorKind::Decode,
                format!("decode a value: {} bytes are left over", rest.len()),
            )),
            Err(e) => Err(self.undecodable(e)),
        }
    }

    fn decode_packed<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Error> {
        let mut source = rmp_serde::Deserializer::from_read_ref(bytes);
        let reader = Reader {
            inner: &mut source,
            at: At::begin(self),
        };
        let value =
            payload::packed(|| T::deserialize(reader)).map_err(|told| self.undecodable(told.0))?;
        // It does not tell where it stands: only at the end there is no other value that could
        // begin.
        match (&mut source).deserialize_any(Nothing) {
            Err(PackError::InvalidMarkerRead(_)) => Ok(value),
            _ => Err(Error::new(
                ErrorKind::Decode,
                "decode a value: bytes are left over",
            )),
        }
    }

    /// As it stands in front of progress, see `docs/wire-protocol.md`.
    #[doc(hidden)]
    pub fn number(self) -> u8 {
        match self {
            Self::Postcard => 0,
            Self::Json => 1,
            Self::MessagePack => 2,
        }
    }

    #[doc(hidden)]
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::Postcard, Self::Json, Self::MessagePack]
            .into_iter()
            .find(|codec| codec.number() == number)
    }

    fn unencodable(self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::new(
            ErrorKind::Encode,
            format!("encode a value as {self}: {}", Self::text_of(&source)),
        )
        .with_source(source)
    }

    fn undecodable(self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::new(
            ErrorKind::Decode,
            format!("decode a value from {self}: {}", Self::text_of(&source)),
        )
        .with_source(source)
    }

    /// What went wrong, in the words of the value's type if the format drops them.
    fn text_of(source: &dyn std::error::Error) -> String {
        located_error::text().unwrap_or_else(|| source.to_string())
    }
}

/// Takes no value.
struct Nothing;

impl Visitor<'_> for Nothing {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end")
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Postcard => "postcard",
            Self::Json => "JSON",
            Self::MessagePack => "MessagePack",
        })
    }
}

/// Durations as what other programs read: a number of seconds.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// As [`seconds`], of a time that may be unknown.
pub mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration
            .map(|duration| duration.as_secs_f64())
            .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        seconds
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
