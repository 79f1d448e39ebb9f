//! What a store declares.

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[case!(capabilities_are_those_that_the_test_pins)];

async fn capabilities_are_those_that_the_test_pins(Subject { broker, place }: Subject) {
    assert_eq!(broker.capabilities(), place.store.capabilities());
}
