//! Arguments of a script, all in one piece: a batch has thousands.

use std::io::Write as _;
use std::time::Duration;

use redis::{RedisWrite, ToRedisArgs};

#[derive(Clone, Default)]
pub(super) struct Arguments {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Arguments {
    pub(super) fn push(&mut self, argument: &str) {
        self.bytes.extend_from_slice(argument.as_bytes());
        self.ends.push(self.bytes.len());
    }

    pub(super) fn push_number(&mut self, number: impl Into<i128>) {
        // Memory always takes it.
        write!(self.bytes, "{}", number.into()).ok();
        self.ends.push(self.bytes.len());
    }

    pub(super) fn append(&mut self, others: &Self) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&others.bytes);
        self.ends.extend(others.ends.iter().map(|end| before + end));
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl ToRedisArgs for Arguments {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        let mut begin = 0;
        for end in &self.ends {
            out.write_arg(&self.bytes[begin..*end]);
            begin = *end;
        }
    }

    fn num_of_args(&self) -> usize {
        self.ends.len()
    }
}

/// A time as scripts take it.
pub(super) fn millis(duration: Duration) -> u64 {
    // Larger ones than the server's numbers can hold.
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min(1 << 50)
}
