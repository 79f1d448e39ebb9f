//! The names of headers that more than one file reads or writes. `message` says what each means.

/// Of an answer without a value: its kind.
pub(super) const ERROR: &str = "brigade-error";
/// Of progress: how far a running call is.
pub(super) const PROGRESS: &str = "brigade-progress";
/// Of a request whose caller wants more than the answer. Ours want progress without saying so.
pub(super) const TELL: &str = "brigade-call";
/// The value of [`TELL`] in a request, and the header of the message, that says that a worker has
/// the call.
pub(super) const BEGUN: &str = "brigade-begun";
/// Of a request that is to wait for as long as every worker passes.
pub(super) const WAITS: &str = "brigade-call-waits";
