//! Which columns of a table fit into a width.

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Aligned to the right.
    pub(super) is_number: bool,
    /// Where there is no room for all, those with the highest number go first; 0 stays.
    pub(super) drop_order: u8,
    /// The most cells it takes, if others need them.
    pub(super) width_max: u16,
}

impl Column {
    /// A column of text.
    pub(super) const fn text(title: &'static str, drop_order: u8, width_max: u16) -> Self {
        Self {
            title,
            is_number: false,
            drop_order,
            width_max,
        }
    }

    /// A column of numbers.
    pub(super) const fn number(title: &'static str, drop_order: u8) -> Self {
        Self {
            title,
            is_number: true,
            drop_order,
            width_max: 24,
        }
    }
}

/// The columns that fit, by their places, each with its width. `wanted` is the width of the longest
/// cell of each. What is left over goes to the last column that could use it.
pub(super) fn fit(columns: &[Column], wanted: &[u16], width: u16) -> Vec<(usize, u16)> {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let width_of = |column: usize| wanted[column].min(columns[column].width_max).max(1);
    let total = |kept: &[usize]| {
        let gaps = u16::try_from(kept.len().saturating_sub(1)).unwrap_or(u16::MAX);
        let widths = kept.iter().map(|column| width_of(*column));
        widths.fold(gaps, u16::saturating_add)
    };
    while total(&kept) > width {
        let droppable = kept
            .iter()
            .filter(|column| columns[**column].drop_order > 0);
        let Some(next) = droppable
            .copied()
            .max_by_key(|column| columns[*column].drop_order)
        else {
            break;
        };
        kept.retain(|column| *column != next);
    }
    let mut left = width.saturating_sub(total(&kept));
    let mut fitted = Vec::with_capacity(kept.len());
    for column in kept.into_iter().rev() {
        let more = left.min(wanted[column].saturating_sub(width_of(column)));
        left -= more;
        fitted.push((column, width_of(column) + more));
    }
    fitted.reverse();
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::text("name", 0, 20),
        Column::number("count", 2),
        Column::text("reason", 1, 10),
    ];

    #[test]
    fn columns_go_in_their_order_until_the_rest_fits() {
        let wanted = [8, 5, 30];
        let fitted = |width| fit(&COLUMNS, &wanted, width);
        assert_eq!(fitted(100), [(0, 8), (1, 5), (2, 30)]);
        assert_eq!(fitted(25), [(0, 8), (1, 5), (2, 10)]);
        assert_eq!(fitted(24), [(0, 8), (2, 15)]);
        assert_eq!(fitted(18), [(0, 8)]);
        assert_eq!(fitted(3), [(0, 8)], "the first stays, whatever the width");
    }
}
