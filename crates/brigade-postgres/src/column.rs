//! [`SparseColumn`]: an array of parameters in which most places have no value.

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// Values for the rows of a call, one for each row. Null as a whole if no row has one: then the
/// functions of the schema need not look.
#[derive(Debug)]
pub(super) struct SparseColumn<T>(Vec<Option<T>>);

impl<T> SparseColumn<T> {
    pub(super) fn push(&mut self, value: Option<T>) {
        self.0.push(value);
    }
}

impl<T> Default for SparseColumn<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: ToSql> ToSql for SparseColumn<T> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        if self.0.iter().all(Option::is_none) {
            return Ok(IsNull::Yes);
        }
        self.0.to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <Vec<Option<T>> as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}
