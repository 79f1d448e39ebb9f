//! [`Codec`]: which format a value is written in.

use serde::{Deserialize, Serialize};

/// How values are written. Set per task with `#[task(codec = "json")]`; see also
/// [`Call::of_json`](crate::Call::of_json).
///
/// With the default and with [`Codec::Json`] a value of any serde type arrives equal or is an
/// error, of kind `Encode` where it was to be written or `Decode` where it was to be read. A value
/// is nested at most 128 levels deep: lists, maps, structs, enums and `Some` within each other. A
/// type whose own `Serialize` and `Deserialize` do not agree is not helped by any format: an
/// untagged enum, for one, is read as the first variant that fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Codec {
    /// [postcard](https://postcard.jamesmunns.com/wire-format): the most compact, without names of
    /// fields and variants: both sides must have the very same types. It cannot carry what changes
    /// the shape of a value: with `#[serde(skip_serializing_if)]`, or `#[serde(skip)]` on a variant
    /// that stands before others, **other values arrive than were sent**. What needs a format that
    /// describes itself (`serde_json::Value`, `#[serde(untagged)]`, `#[serde(flatten)]`,
    /// `#[serde(tag = ..)]`) is an error.
    Postcard,
    /// JSON: for programs in other languages, and what brokers keep. It has no NaN and no infinity,
    /// no `Some(None)` and no `Some(())`, and keys of maps are texts, numbers, booleans or variants
    /// without data: anything else is an error. [`Bytes`](crate::Bytes) are base64.
    Json,
    /// [MessagePack](https://msgpack.org) with the names of fields and variants, for any serde
    /// type: the default. What it has no form of (`Some(None)`, `Some(())`, numbers of more than 64
    /// bits) has one of its own, which is an error within `#[serde(untagged)]`, `#[serde(flatten)]`
    /// or a tagged enum.
    #[default]
    MessagePack,
}
