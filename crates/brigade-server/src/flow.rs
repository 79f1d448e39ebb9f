//! [`FlowJobs`]: the jobs of a flow, found from any of them.
//!
//! A job knows its dependent and how many parents it has, so a flow is found in two steps: along
//! the dependents to the last job, and among the jobs that were pushed at the same moment, as those
//! of a flow are. Jobs that ended and were not kept are gone from the broker; only their number is
//! known.

use std::collections::HashMap;
use std::time::Duration;

use brigade::{Broker, Error, JobFilter, JobId, JobInfo};

/// Jobs that are looked for along the dependents.
const STEPS_MAX: usize = 200;
/// Pages of jobs that are read.
const PAGES_MAX: usize = 4;
const PAGE: usize = 500;

/// The jobs of a flow that the broker still has.
pub(crate) struct FlowJobs {
    pub(crate) jobs: HashMap<JobId, JobInfo>,
    /// The last one that is known: it is settled after all others.
    pub(crate) last: JobId,
    /// Whether there may be more.
    pub(crate) is_cut: bool,
}

impl FlowJobs {
    /// The flow of a job; that alone if it is of none.
    pub(crate) async fn of(broker: &Broker, job: JobInfo) -> Result<Self, Error> {
        let start = job.id.clone();
        if job.parents.is_none() && job.dependent.is_none() {
            return Ok(Self {
                last: start.clone(),
                jobs: HashMap::from([(start, job)]),
                is_cut: false,
            });
        }
        let mut jobs = HashMap::new();
        let mut is_cut = pushed_with(broker, &job, &mut jobs).await?;
        let (mut next, mut steps) = (job.dependent.clone(), 0);
        while let Some(id) = next.take() {
            if steps >= STEPS_MAX {
                is_cut = true;
                break;
            }
            steps += 1;
            let known = jobs.get(&id).cloned();
            let found = match known {
                Some(found) => Some(found),
                None => broker.job(&id).await?,
            };
            if let Some(found) = found {
                next = found.dependent.clone();
                jobs.insert(found.id.clone(), found);
            }
        }
        jobs.entry(start.clone()).or_insert(job);
        let last = last_of(&jobs, &start);
        let ids: Vec<JobId> = jobs
            .keys()
            .filter(|id| last_of(&jobs, id) == last)
            .cloned()
            .collect();
        jobs.retain(|id, _| ids.contains(id));
        Ok(Self { jobs, last, is_cut })
    }

    /// How many steps a job is from the last one.
    pub(crate) fn depth(&self, job: &JobInfo) -> usize {
        let (mut depth, mut next) = (0, job.dependent.as_ref());
        while let Some(found) = next.and_then(|id| self.jobs.get(id)) {
            depth += 1;
            next = found.dependent.as_ref();
            if depth > self.jobs.len() {
                break;
            }
        }
        depth
    }

    /// The jobs in the order of their pushes.
    pub(crate) fn in_order(&self) -> Vec<&JobInfo> {
        let mut sorted: Vec<&JobInfo> = self.jobs.values().collect();
        sorted.sort_by(|a, b| {
            (a.id.as_str().len(), a.id.as_str()).cmp(&(b.id.as_str().len(), b.id.as_str()))
        });
        sorted
    }

    /// For each job that waits for others, how many of these have ended and are gone.
    pub(crate) fn gone(&self) -> HashMap<&JobId, u32> {
        let mut known: HashMap<&JobId, u32> = HashMap::new();
        for dependent in self.jobs.values().filter_map(|job| job.dependent.as_ref()) {
            *known.entry(dependent).or_default() += 1;
        }
        let gone = self.jobs.values().filter_map(|job| {
            let total = job.parents.as_ref()?.total;
            let known = known.get(&job.id).copied().unwrap_or(0);
            Some((&job.id, total.saturating_sub(known)))
        });
        gone.filter(|(_, gone)| *gone > 0).collect()
    }
}

/// Adds the jobs that were pushed at the same moment. Whether there may be more.
async fn pushed_with(
    broker: &Broker,
    job: &JobInfo,
    jobs: &mut HashMap<JobId, JobInfo>,
) -> Result<bool, Error> {
    let mut filter = JobFilter {
        pushed_from: Some(job.pushed_at),
        pushed_until: Some(job.pushed_at + Duration::from_millis(1)),
        newest_first: true,
        limit: PAGE,
        ..JobFilter::default()
    };
    for _ in 0..PAGES_MAX {
        let page = broker.find(&filter).await?;
        let of_flows = page
            .jobs
            .into_iter()
            .filter(|job| job.parents.is_some() || job.dependent.is_some());
        jobs.extend(of_flows.map(|job| (job.id.clone(), job)));
        filter.after = page.next;
        if filter.after.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The job at the end of the chain of dependents.
fn last_of(jobs: &HashMap<JobId, JobInfo>, start: &JobId) -> JobId {
    let (mut last, mut steps) = (start, 0);
    while let Some(next) = jobs.get(last).and_then(|job| job.dependent.as_ref()) {
        if !jobs.contains_key(next) || steps > jobs.len() {
            break;
        }
        last = next;
        steps += 1;
    }
    last.clone()
}
