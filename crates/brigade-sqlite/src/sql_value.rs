//! [`SqlValue`]: a parameter of a statement that an application runs for us.

/// A parameter of an SQL statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlValue<'a> {
    /// `NULL`.
    Null,
    /// An integer.
    Integer(i64),
    /// A text.
    Text(&'a str),
}

impl<'a> SqlValue<'a> {
    pub(super) fn of_text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}
