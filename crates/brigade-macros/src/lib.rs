//! The attributes of Brigade: `#[task]` and `#[main]`. Use them through the `brigade` crate, which documents them.

mod entry;
mod options;
mod task;

use proc_macro::TokenStream;

/// Makes a function a task: calling it describes a call, and a place (a pool, a broker) runs it.
///
/// See the front page of the `brigade` crate.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Starts the async runtime around `main`, and turns a child process that Brigade started into a worker before
/// `main` is reached.
///
/// Options: `flavor = "current_thread"` (default `"multi_thread"`), `worker_threads = 4` (default: one per CPU).
/// A `main` that is not async is called without a runtime.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    entry::expand(options.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
