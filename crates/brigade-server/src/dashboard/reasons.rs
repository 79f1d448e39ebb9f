//! What `why` says of a job, as sentences.

use super::ansi::plain;
use brigade::{Blocker, Explanation, JobState};

/// One sentence for each reason; at least one.
pub(super) fn in_words(explanation: &Explanation) -> Vec<String> {
    if explanation.reasons.is_empty() {
        let text = match explanation.state {
            JobState::Done => "It is done.",
            _ => "Nothing holds it: the next consumer that asks for jobs of its queue gets it.",
        };
        return vec![text.to_owned()];
    }
    explanation.reasons.iter().map(sentence).collect()
}

fn sentence(blocker: &Blocker) -> String {
    let words = plain(&blocker.to_string());
    let mut letters = words.chars();
    let Some(first) = letters.next() else {
        return words;
    };
    let end = if words.ends_with('.') { "" } else { "." };
    format!("{}{}{end}", first.to_uppercase(), letters.as_str())
}
