//! [`Output`]: what an attempt wrote, if its call asked for that.

/// What an attempt wrote to one of its standard streams, as far as it was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// What it wrote first, up to the limit of the call.
    pub text: Vec<u8>,
    /// How many bytes came after the limit and were dropped.
    pub dropped: u64,
}

impl Captured {
    /// What was kept, and how many bytes were dropped.
    #[doc(hidden)]
    pub fn new(text: Vec<u8>, dropped: u64) -> Self {
        Self { text, dropped }
    }

    /// At most so many bytes of it; the others count as dropped.
    #[doc(hidden)]
    #[must_use]
    pub fn cut(mut self, bytes_max: usize) -> Self {
        let over = self.text.len().saturating_sub(bytes_max);
        self.text.truncate(bytes_max);
        self.dropped = self.dropped.saturating_add(over as u64);
        self
    }
}

/// Standard output and error of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
}

impl Output {
    /// Both streams.
    #[doc(hidden)]
    pub fn new(stdout: Captured, stderr: Captured) -> Self {
        Self { stdout, stderr }
    }
}
