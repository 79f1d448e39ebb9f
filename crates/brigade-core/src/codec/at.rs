//! `At`: where in a value its writer or reader is, and what holds there.
//!
//! An `At` is a small copy on the stack of the serializer or deserializer. Each step into the value
//! makes a new one, whose path points back at the one before; nothing is shared or allocated until
//! an error prints the path.
//!
//! Invariants: each level of nesting takes one from `depth`, and a value that is nested deeper than
//! that is refused, so a decoder cannot overflow its stack. The flags of a level (`in_some`, `raw`,
//! `wide`) hold through newtypes and end at the next list, map or struct.
//!
//! Reading and writing themselves are in `read` and `write`.

use std::fmt;

use super::format::Codec;

/// How deep a value may be nested: lists, maps, structs, enums and `Some` within each other.
/// A thread that decodes may have a stack of 2 MiB, in a build without optimisation.
pub(super) const DEPTH_MAX: u16 = 128;

/// What stands, in MessagePack, for what it has no form of: it writes `None`, `()` and what is
/// transparent around them all as nil, so that `Some(None)` would arrive as `None`; and its numbers
/// have 64 bits. No text of a user may begin so.
pub(super) const MARK: &str = "\0brigade:";
pub(super) const NONE: &str = "\0brigade:none";
pub(super) const SOME: &str = "\0brigade:some";
pub(super) const UNIT: &str = "\0brigade:unit";
/// A number follows.
pub(super) const WIDE: &str = "\0brigade:wide:";

/// The name of the struct as which JSON that is written already is handed on.
pub(super) const RAW_JSON: &str = "$serde_json::private::RawValue";

/// The name of a newtype struct that is written as raw bytes in MessagePack, whatever else is human
/// readable there.
pub const RAW: &str = "$brigade::private::Raw";

#[derive(Clone, Copy)]
pub(super) struct At<'p> {
    pub(super) codec: Codec,
    /// Levels that are left.
    pub(super) depth: u16,
    /// Directly within a `Some`, or in what is transparent there.
    pub(super) in_some: bool,
    /// Within [`RAW`], or JSON that is written already.
    pub(super) raw: bool,
    /// A number of 128 bits is wanted.
    pub(super) wide: bool,
    /// What is read is dropped.
    pub(super) ignored: bool,
    pub(super) path: Option<&'p PathStep<'p>>,
}

/// One step into a value.
pub(super) struct PathStep<'p> {
    pub(super) name: Name,
    pub(super) before: Option<&'p PathStep<'p>>,
}

#[derive(Clone, Copy)]
pub(super) enum Name {
    Field(&'static str),
    Index(usize),
    /// An entry of a map, by its position.
    Entry(usize),
}

impl<'p> At<'p> {
    pub(super) fn begin(codec: Codec) -> Self {
        Self {
            codec,
            depth: DEPTH_MAX,
            in_some: false,
            raw: false,
            wide: false,
            ignored: false,
            path: None,
        }
    }

    /// `Some`, or a newtype around something: what holds outside holds inside.
    pub(super) fn through(self) -> Option<Self> {
        Some(Self {
            depth: self.depth.checked_sub(1)?,
            ..self
        })
    }

    /// Within a list, a map or alike, which has so many levels.
    pub(super) fn inside(self, levels: u16) -> Option<Self> {
        Some(Self {
            depth: self.depth.checked_sub(levels)?,
            in_some: false,
            raw: false,
            wide: false,
            ..self
        })
    }

    pub(super) fn some(self) -> Option<Self> {
        Some(Self {
            in_some: true,
            ..self.through()?
        })
    }

    /// One step further.
    pub(super) fn step<'s>(self, step: &'s PathStep<'s>) -> At<'s>
    where
        'p: 's,
    {
        At {
            path: Some(step),
            ..self
        }
    }

    pub(super) fn is_packed(self) -> bool {
        self.codec == Codec::MessagePack
    }

    pub(super) fn is_json(self) -> bool {
        self.codec == Codec::Json
    }

    /// Whether `Some` of what is written as nothing would arrive as `None`.
    pub(super) fn hides_in_some(self) -> bool {
        self.in_some && !matches!(self.codec, Codec::Postcard)
    }
}

pub(super) fn too_deep() -> String {
    format!(
        "it is nested more than {DEPTH_MAX} levels deep: flatten it, a list instead of a chain for \
            instance"
    )
}

impl fmt::Display for At<'_> {
    /// Where it is: ` at .orders[3].price`, and nothing for the whole value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps: Vec<Name> = std::iter::successors(self.path, |step| step.before)
            .map(|step| step.name)
            .collect();
        if steps.is_empty() {
            return Ok(());
        }
        f.write_str(" at ")?;
        steps.reverse();
        // The end is what matters of a long way.
        let skipped = steps.len().saturating_sub(STEPS_MAX);
        if skipped > 0 {
            f.write_str("..")?;
        }
        steps
            .into_iter()
            .skip(skipped)
            .try_for_each(|name| match name {
                Name::Field(name) => write!(f, ".{name}"),
                Name::Index(index) => write!(f, "[{index}]"),
                Name::Entry(index) => write!(f, "{{entry {index}}}"),
            })
    }
}

const STEPS_MAX: usize = 16;
