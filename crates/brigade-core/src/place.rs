//! [`Place`]: where calls run.

use serde::de::DeserializeOwned;

use crate::call::Call;
use crate::call_handle::CallHandle;

/// Where calls run: a pool, a broker, or one of its queues. Code that takes a `Place` works with
/// each of them.
///
/// ```
/// use brigade::{Broker, CallError, Place, task};
///
/// #[task]
/// fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// async fn sum(place: &impl Place, numbers: &[i64]) -> Result<i64, CallError> {
///     let mut sum = 0;
///     for number in numbers {
///         sum = place.call(add(sum, *number)).await?;
///     }
///     Ok(sum)
/// }
/// # async fn example(pool: brigade::Pool, broker: Broker) -> Result<(), CallError> {
/// assert_eq!(sum(&pool, &[1, 2, 3]).await?, 6);
/// assert_eq!(sum(&broker, &[1, 2, 3]).await?, 6);
/// # Ok(()) }
/// ```
pub trait Place: Send + Sync {
    /// Makes a call. It starts now, not when its handle is awaited.
    fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T>;
}
