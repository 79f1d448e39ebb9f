//! What Brigade's pool and its stores share of the operating system and of the async runtime: tasks
//! and threads of one owner, and whether a process is gone with all that it started.
//!
//! Programs use the crate `brigade`. This one is for the crates of Brigade: its contents may change
//! with each release.

#[doc(hidden)]
pub mod batcher;
#[doc(hidden)]
pub mod mark;
#[doc(hidden)]
pub mod owner;
#[doc(hidden)]
pub mod ready;
#[doc(hidden)]
pub mod shutdown;
#[doc(hidden)]
pub mod spare_threads;
#[doc(hidden)]
#[cfg(feature = "tls")]
pub mod tls;
#[doc(hidden)]
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;
