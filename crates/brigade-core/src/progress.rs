//! [`Progress`]: what a running task reported.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::codec::Codec;
use crate::error::Error;

/// Progress is not for results: what is kept for a slow caller stays small.
pub const PROGRESS_BYTES_MAX: usize = 56 << 10;

/// What a running task reported with [`Context::progress`](crate::Context::progress).
#[derive(Clone, Debug)]
pub struct Progress {
    #[doc(hidden)]
    pub fraction: f64,
    #[doc(hidden)]
    pub codec: Codec,
    #[doc(hidden)]
    pub payload: Bytes,
}

impl Progress {
    /// How far the task is, from 0 to 1.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }

    /// The payload.
    ///
    /// # Errors
    ///
    /// `Decode` if it is not a `P`.
    pub fn payload<P: DeserializeOwned>(&self) -> Result<P, Error> {
        self.codec.decode(&self.payload)
    }
}
