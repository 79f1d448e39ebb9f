//! [`TraceParent`]: the trace that a request belongs to.

pub mod ambient;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, ErrorKind};

/// The trace that a request belongs to, as [W3C Trace
/// Context](https://www.w3.org/TR/trace-context/) writes it: `00-<32 hex digits>-<16 hex digits>-<2
/// hex digits>`, 55 characters in lower case. It travels with a call or a job to each attempt, also
/// into the worker process.
///
/// ```
/// # use brigade::TraceParent;
/// let parent: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
/// assert_eq!(parent.trace_id(), "0af7651916cd43dd8448eb211c80319c");
/// # Ok::<(), brigade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct TraceParent(Box<str>);

/// Lengths of its parts.
const PARTS: [usize; 4] = [2, 32, 16, 2];

impl TraceParent {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the trace: 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }

    /// The id of the span that made the request: 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        &self.0[36..52]
    }

    /// The flags: 2 hexadecimal digits, of which the last bit says that the trace is recorded.
    pub fn flags(&self) -> &str {
        &self.0[53..55]
    }

    /// Text of another program; text of another form is dropped, with a line in the log.
    pub fn read(text: &str) -> Option<Self> {
        text.parse()
            .inspect_err(|error: &Error| tracing::warn!(%error, "dropped a traceparent"))
            .ok()
    }

    /// As [`read`](Self::read), for a field of stored or sent data.
    #[doc(hidden)]
    pub fn read_field<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Self>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.and_then(|text| Self::read(&text)))
    }
}

impl FromStr for TraceParent {
    type Err = Error;

    /// # Errors
    ///
    /// `BadOption` for text of another form, and for ids that are all zeros.
    fn from_str(text: &str) -> Result<Self, Error> {
        let is_hex = |part: &str| {
            part.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
        let parts: Vec<&str> = text.split('-').take(PARTS.len() + 1).collect();
        let is_well = parts.len() == PARTS.len()
            && parts
                .iter()
                .zip(PARTS)
                .all(|(part, length)| part.len() == length && is_hex(part))
            && parts[0] == "00"
            && !is_zero(parts[1])
            && !is_zero(parts[2]);
        if is_well {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(60).collect();
        let text = format!(
            "read the traceparent {shown:?}: expected 00-<32 hex digits>-<16 hex digits>-<2 hex \
                digits> in lower case, with ids that are not all zeros"
        );
        Err(Error::new(ErrorKind::BadOption, text))
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn text_of_the_form_is_taken_apart() {
        let parent: TraceParent = GOOD.parse().unwrap();
        assert_eq!(parent.as_str(), GOOD);
        assert_eq!(parent.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span_id(), "b7ad6b7169203331");
    }

    #[test]
    fn text_of_another_form_is_refused_and_dropped() {
        let zeros = GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        for text in [
            "",
            "00",
            &GOOD[1..],
            &GOOD.to_uppercase(),
            &GOOD.replace("00-", "01-"),
            &format!("{GOOD}-00"),
            &format!("{GOOD}0"),
            &zeros,
            &"-".repeat(100_000),
        ] {
            let error = text.parse::<TraceParent>().unwrap_err();
            assert!(
                error.kind() == ErrorKind::BadOption && error.to_string().len() < 400,
                "{error}"
            );
            assert_eq!(TraceParent::read(text), None);
        }
    }
}
