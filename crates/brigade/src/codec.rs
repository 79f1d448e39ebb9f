//! The data formats of arguments, results and progress.
//!
//! Only data travels, never code or type names. Each message names its format, so both may be used side by
//! side. Decoding refuses bytes that are left over: arguments of another shape must not pass by luck.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// How values are written. Set per task with `#[task(codec = "json")]`; see also [`Call::of_json`](crate::Call::of_json).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Codec {
    /// [postcard](https://postcard.jamesmunns.com/wire-format): compact, fast, not self-describing. Types that
    /// need a self-describing format (`serde_json::Value`, `#[serde(untagged)]`, `#[serde(flatten)]`,
    /// `skip_serializing_if`) do not survive it: use [`Codec::Json`] for those.
    #[default]
    Postcard,
    /// JSON: for any serde type and for programs in other languages.
    Json,
}

impl Codec {
    pub(crate) fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, Error> {
        match self {
            Self::Postcard => postcard::to_stdvec(value).map_err(|e| unencodable(self, e)),
            Self::Json => serde_json::to_vec(value).map_err(|e| unencodable(self, e)),
        }
    }

    pub(crate) fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Error> {
        match self {
            Self::Postcard => match postcard::take_from_bytes(bytes) {
                Ok((value, [])) => Ok(value),
                Ok((_, rest)) => Err(Error::new(ErrorKind::Decode, format!("decode a value: {} bytes are left over", rest.len()))),
                Err(postcard::Error::WontImplement) => Err(Error::new(
                    ErrorKind::Decode,
                    "decode a value from postcard: its type needs a self-describing format, \
                     use #[task(codec = \"json\")], or Call::of_json for a function without a name",
                )),
                Err(e) => Err(undecodable(self, e)),
            },
            Self::Json => serde_json::from_slice(bytes).map_err(|e| undecodable(self, e)),
        }
    }
}

fn unencodable(codec: Codec, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Encode, format!("encode a value as {codec:?}: {source}")).with_source(source)
}

fn undecodable(codec: Codec, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Decode, format!("decode a value from {codec:?}: {source}")).with_source(source)
}

/// Durations as what other programs read: a number of seconds.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_over_bytes_are_refused_in_both_formats() {
        let packed = Codec::Postcard.encode(&(1u8, 2u8)).unwrap();
        assert_eq!(Codec::Postcard.decode::<(u8,)>(&packed).unwrap_err().kind(), ErrorKind::Decode);
        assert!(Codec::Json.decode::<(u8,)>(b"[1,2]").is_err());
        assert_eq!(Codec::Json.decode::<(u8, u8)>(b"[1,2]").unwrap(), (1, 2));
    }

    #[test]
    fn a_type_that_needs_json_says_so() {
        let packed = Codec::Postcard.encode(&serde_json::json!({"a": 1})).unwrap();
        let error = Codec::Postcard.decode::<serde_json::Value>(&packed).unwrap_err();
        assert!(error.to_string().contains("codec = \"json\""), "{error}");
    }
}
