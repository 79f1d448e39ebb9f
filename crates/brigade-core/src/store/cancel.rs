//! [`CancelOutcome`]: the result of a cancel.

/// What `Broker::cancel` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CancelOutcome {
    /// It was waiting, and is cancelled.
    Cancelled,
    /// It is leased: its holder has been asked to stop it, and learns of it within a second, at the
    /// latest when it extends its lease.
    Asked,
    /// There is no job of that id, or it had ended.
    Nothing,
}
