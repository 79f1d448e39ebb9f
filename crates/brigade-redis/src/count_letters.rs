//! The letters by which the scripts count.

/// By the places of `record.lua`: seven numbers, then waits and runs, each by its bounds, what took
/// longer, and the sum.
pub(super) const LETTERS: &str = "ABCDEFGabcdefghijklmnopqrstHIJKLMNOPQRSTUVWXYZu";
/// Where waits begin, and runs.
pub(super) const WAITS: usize = 7;
pub(super) const RUNS: usize = 27;

#[cfg(test)]
mod tests {
    use super::*;
    use brigade_core::statistics::Durations;

    #[test]
    fn each_place_of_the_histograms_has_a_letter_of_its_own() {
        let places = Durations::default().counts.len() + 1;
        assert_eq!((WAITS + places, RUNS + places), (RUNS, LETTERS.len()));
        let letters: std::collections::BTreeSet<_> = LETTERS.bytes().collect();
        assert_eq!(letters.len(), LETTERS.len());
    }
}
