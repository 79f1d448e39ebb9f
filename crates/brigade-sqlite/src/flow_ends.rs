//! Ends of jobs that are not counted in their flows yet: what keeps the end of a job in a long flow
//! from blocking the file.
//!
//! The end of a job is counted with its dependent in the same transaction. That may settle the
//! dependent too, as it is not run or is a barrier, and so on through a flow of any length. A
//! transaction passes on at most `FLOW_STEPS_MAX` (`budget`) ends of that kind. The next one is
//! noted in `brigade_flow_ends`, in the same transaction, and a later step of the sweep goes on
//! from there. So a crash between two steps loses nothing, and each end is counted once: the note
//! is removed with the count. Until then its dependent looks as if it still waited for the job;
//! looks wait until the last end is counted (`look_at_now`).

use rusqlite::{Row, params};

use super::flow::EndedJob;
use super::flow_retries::MemberLink;
use super::parent_results::DependencyResult;
use super::store::Store;
use crate::error::Error;

impl Store<'_> {
    /// Whether this transaction may pass on another end.
    pub(super) fn has_flow_step(&self) -> bool {
        let left = self.flow_steps.get();
        self.flow_steps.set(left.saturating_sub(1));
        left > 0
    }

    /// Notes an end that a later transaction counts.
    pub(super) fn note_end(
        &self,
        ended: &EndedJob,
        fate: &DependencyResult<'_>,
    ) -> Result<(), Error> {
        let Some(dependent) = ended.dependent else {
            return Ok(());
        };
        let (result, missed) = match fate {
            DependencyResult::Done(result) => (result.as_deref(), None),
            DependencyResult::Missed(reason) => (None, Some(reason.as_str())),
        };
        let sql = "INSERT INTO brigade_flow_ends (job, dependent, place, result, missed) \
            VALUES (?1, ?2, ?3, ?4, ?5)";
        let values = params![ended.id, dependent, ended.place, result, missed];
        self.execute("note the end of a job", sql, values).map(drop)
    }

    /// Whether a flow is between two steps: an end is not counted yet, or not taken back, or
    /// results are not gathered.
    pub(super) fn has_unfinished_flows(&self) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM brigade_flow_ends) OR EXISTS (SELECT 1 FROM \
            brigade_flow_retries) OR EXISTS (SELECT 1 FROM brigade_gathers WHERE after IS NOT NULL)";
        let found = self.row("look for flows to go on", sql, &[], |row| row.get(0))?;
        Ok(found.unwrap_or(false))
    }

    /// Forgets a noted end; whether there was one.
    pub(super) fn forget_end(&self, id: i64) -> Result<bool, Error> {
        let sql = "DELETE FROM brigade_flow_ends WHERE job = ?1";
        Ok(self.execute("forget the end of a job", sql, params![id])? > 0)
    }

    /// Takes back and counts some of the noted ends, however far their flows go on. Returns how
    /// many: fewer than the limit if none is left. A retry goes first: it overtakes the end that it
    /// takes back.
    pub(super) fn continue_flows(&self, limit: usize) -> Result<usize, Error> {
        for counted in self.continue_retries(limit)?..limit {
            let sql = "SELECT job, dependent, place, result, missed FROM brigade_flow_ends \
                ORDER BY job LIMIT 1";
            let read = |row: &Row<'_>| {
                let result: Option<String> = row.get(3)?;
                let missed: Option<String> = row.get(4)?;
                let fate = missed.map_or_else(
                    || DependencyResult::Done(result.map(Into::into)),
                    DependencyResult::Missed,
                );
                let link = MemberLink {
                    job: row.get(0)?,
                    dependent: row.get(1)?,
                    place: row.get(2)?,
                };
                Ok((link, fate))
            };
            let Some((link, fate)) = self.row("look for ends to count", sql, &[], read)? else {
                return Ok(counted);
            };
            self.forget_end(link.job)?;
            self.count_and_go_on(&link, &fate)?;
        }
        Ok(limit)
    }
}
