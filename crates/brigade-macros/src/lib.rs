//! The attributes of Brigade: `#[task]` and `#[main]`. Use them through the `brigade` crate, which
//! documents them.

mod entry;
mod options;
mod task;

use proc_macro::TokenStream;

/// Makes a function a task: calling it describes a call, and a place (a pool, a broker) runs it.
///
/// The function may be sync or async and may take `&Context` first. Its arguments are owned serde
/// types, at most 12; its result is a serde type, or a `Result` (under that name) of one with any
/// error that converts into `Box<dyn Error + Send + Sync>`. Afterwards `f(a, b)` gives a `Call` of
/// its value.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `name = "shop.add"` | the name it is registered under: 1 to 128 ASCII letters, digits, `_`, `-`, `.`, `:`; unique in the program | the function's name |
/// | `aliases = ["plus"]` | names that it had before: calls and jobs by them run it, and the queues of these names are served too; no other task may have them | none |
/// | `queue = "emails"` | the queue of its jobs at a broker | the name |
/// | `timeout = "30s"` | longest run of one attempt (`ms`, `s`, `m`, `h`) | none |
/// | `queue_timeout = "5s"` | longest wait for a worker | none |
/// | `sandbox = "no-network"` | a profile (`no-network`, `read-only`, `compute`) or an expression that is a `Sandbox` | none |
/// | `memory = "512MiB"` | memory an attempt may add to its worker's (`KiB`, `MiB`, `GiB`, `kB`, `MB`, `GB`) | none |
/// | `retries = 3` | attempts after the first that failed, panicked or crashed | 0 |
/// | `retry_base = "1s"`, `retry_cap = "5m"` | first and longest pause between attempts | the place's |
/// | `retry_within = "1h"` | no attempt begins later than this after the call was made or the job pushed | no limit |
/// | `priority = 10` | higher leaves the queue first | 0 |
/// | `labels = ["gpu"]` | only workers that were given all of these run it | none |
/// | `codec = "json"` | how values travel: `"messagepack"`, which carries any serde type, `"json"`, or `"postcard"`, which is the most compact and does not (see `Codec`) | `"messagepack"` |
/// | `idempotent` | it may run twice: if the host that runs it is lost, another one does | no |
///
/// Each but `name`, `aliases`, `queue`, `codec` and `idempotent` is also a method of the call,
/// which wins; the `retry_` ones are `retry`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Starts the async runtime around `main`, and turns a child process that Brigade started into a
/// worker before `main` is reached.
///
/// Options: `flavor = "current_thread"` (default `"multi_thread"`), `worker_threads = 4` (default:
/// one per CPU). A `main` that is not async is called without a runtime.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    entry::expand(options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
