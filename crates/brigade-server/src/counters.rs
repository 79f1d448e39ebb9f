//! What the server itself counts, for `/metrics`.

mod requests;
mod sums;

pub(crate) use self::requests::{RequestCounter, RequestCounts};
pub(crate) use self::sums::CounterSums;
