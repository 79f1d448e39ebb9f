//! Errors as people read them.

/// An error and its causes, none of them twice: some errors contain the text of their cause.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |text, cause| match text {
            _ if text.contains(&cause) => text,
            _ if text.is_empty() => cause,
            _ => format!("{text}: {cause}"),
        })
}
