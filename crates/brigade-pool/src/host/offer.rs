//! What a host offers to the pools that it joins.

/// What a host offers.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) name: String,
    pub(super) labels: Vec<String>,
    pub(super) functions: bool,
}
