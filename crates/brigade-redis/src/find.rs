//! Pages of the jobs that meet a filter, of one queue or of all, in the order of their numbers.
//!
//! Each queue gives numbers in that order, from a set that is sorted by them ([`NumberSource`]);
//! the pages of many queues are merged. Of the numbers, fields are read in pieces that are enough
//! to decide; only jobs that are listed are read whole. No command reads more than a
//! piece.

use std::collections::VecDeque;

use redis::{Value, cmd, pipe};

use super::client::RedisClient;
use super::job_fields::{fields_of_hash, info};
use super::keys::{check_name, id_of, key, no_such, parts_of};
use super::reply::read;
use crate::error::Error;
use crate::job::{JobId, JobInfo, JobState};
use crate::store::{JobFilter, JobPage};

/// Numbers that one command gives.
const NUMBERS: usize = 500;
/// The first time, where there are many queues.
const NUMBERS_OF_MANY: usize = 16;
/// Jobs that are read in one round trip.
const JOBS: usize = 500;
/// Bytes of payloads that are read in one round trip to look for a text, unless one alone has more.
const TEXT_BYTES_MAX: usize = 16 << 20;
/// Queues whose sets are looked at in one round trip.
const QUEUES: usize = 500;
/// Fields of a job that may be large.
const LARGE_FIELDS: [&str; 2] = ["payload", "result"];
/// A set of a state is read whole if it has at most so many; those of larger ones are found among
/// all jobs.
const STATE_SET_MAX: usize = 20_000;
/// The same of the sets of a page of queues together.
const STATE_SETS_MAX: usize = 100_000;

/// The numbers of a queue's jobs that may meet a filter, in their order.
struct NumberSource {
    queue: String,
    /// Those that were read.
    numbers: VecDeque<String>,
    /// The set to read more from, and the bound to go on from; `None` if there are no more.
    rest: Option<(String, String)>,
    /// How many are read next.
    page: usize,
}

impl NumberSource {
    /// Asks for the next numbers.
    fn ask(&self, newest_first: bool) -> redis::Cmd {
        let Some((set, from)) = &self.rest else {
            return redis::Cmd::new();
        };
        let (name, end) = if newest_first {
            ("ZREVRANGEBYLEX", "-")
        } else {
            ("ZRANGEBYLEX", "+")
        };
        let mut command = cmd(name);
        command.arg(set).arg(from).arg(end);
        command.arg("LIMIT").arg(0).arg(self.page);
        command
    }

    fn add(&mut self, numbers: Vec<String>) {
        let is_all = numbers.len() < self.page;
        self.page = (2 * self.page).min(NUMBERS);
        match (numbers.last(), &mut self.rest) {
            (Some(last), Some((_, from))) if !is_all => *from = format!("({last}"),
            _ => self.rest = None,
        }
        self.numbers.extend(numbers);
    }
}

/// The place after which a list goes on.
struct PagePlace<'a> {
    queue: &'a str,
    number: String,
}

impl PagePlace<'_> {
    /// Where the numbers of a queue go on: those of one number are in the order of their queues.
    fn bound(&self, queue: &str, newest_first: bool) -> String {
        let comes_later = if newest_first {
            queue < self.queue
        } else {
            queue > self.queue
        };
        let mark = if comes_later { '[' } else { '(' };
        format!("{mark}{}", self.number)
    }

    fn is_before(&self, queue: &str, number: &str, newest_first: bool) -> bool {
        let (this, other) = ((&*self.number, self.queue), (number, queue));
        if newest_first {
            other < this
        } else {
            other > this
        }
    }
}

impl RedisClient {
    pub(super) async fn jobs(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        let after = match &filter.after {
            Some(id) => {
                let (queue, number) = parts_of(id).ok_or_else(|| no_such(id))?;
                Some(PagePlace { queue, number })
            }
            None => None,
        };
        let queues = match &filter.queue {
            Some(queue) => vec![queue.to_string()],
            None => self.queues().await?,
        };
        let mut sources = Vec::new();
        for page in queues.chunks(QUEUES) {
            for queue in page {
                check_name(queue)?;
            }
            self.bring_up_to_date(page).await?;
            sources.extend(self.sources(page, filter, after.as_ref()).await?);
        }
        let (mut page, mut seen, mut bytes) = (JobPage::default(), 0, 0);
        let mut numbers = VecDeque::new();
        while page.jobs.len() < filter.limit && bytes <= JobFilter::PAGE_BYTES_MAX {
            let wanted = if fields_for(filter).is_empty() {
                JOBS.min(filter.limit - page.jobs.len())
            } else {
                JOBS
            };
            if numbers.is_empty() {
                let next = self.next_numbers(&mut sources, wanted, filter.newest_first);
                numbers = next.await?;
            }
            if numbers.is_empty() {
                page.next = None;
                return Ok(page);
            }
            let before = (numbers.len(), page.jobs.len());
            let added = self.add_jobs(&mut numbers, filter, &mut page.jobs, &mut bytes);
            page.next = added.await?;
            // Those of a large state are found among all jobs, too.
            seen += (before.0 - numbers.len()) - (page.jobs.len() - before.1);
            if seen >= JobFilter::READ_MAX {
                break;
            }
        }
        Ok(page)
    }

    /// Where the jobs of these queues are found that may meet a filter.
    async fn sources(
        &self,
        queues: &[String],
        filter: &JobFilter,
        after: Option<&PagePlace<'_>>,
    ) -> Result<Vec<NumberSource>, Error> {
        let state = filter.state.map(|state| state.to_string());
        let sizes: Vec<usize> = match &state {
            Some(state) => {
                let mut pipeline = pipe();
                queues.iter().for_each(|queue| {
                    pipeline.cmd("ZCARD").arg(key(queue, state));
                });
                self.ask_all("count jobs", &pipeline).await?
            }
            None => vec![usize::MAX; queues.len()],
        };
        let page = if queues.len() == 1 {
            NUMBERS.min(filter.limit.saturating_add(1))
        } else {
            NUMBERS_OF_MANY
        };
        let (mut sources, mut whole, mut left) = (Vec::new(), Vec::new(), STATE_SETS_MAX);
        for (queue, size) in queues.iter().zip(sizes).filter(|(_, size)| *size > 0) {
            let start = if filter.newest_first { "+" } else { "-" };
            let from = after.map_or(start.to_owned(), |after| {
                after.bound(queue, filter.newest_first)
            });
            let set = match (filter.state, &state) {
                // In these the numbers decide alone.
                (Some(JobState::Dead | JobState::Blocked), Some(state)) => state,
                (Some(_), Some(_)) if size <= STATE_SET_MAX.min(left) => {
                    left -= size;
                    whole.push(sources.len());
                    "jobs"
                }
                _ => "jobs",
            };
            sources.push(NumberSource {
                queue: queue.clone(),
                numbers: VecDeque::new(),
                rest: Some((key(queue, set), from)),
                page,
            });
        }
        let state = state.unwrap_or_default();
        let is_later = |queue: &str, number: &str| {
            after.is_none_or(|after| after.is_before(queue, number, filter.newest_first))
        };
        for (place, mut numbers) in self.whole_sets(&sources, &whole, &state).await? {
            let source = &mut sources[place];
            numbers.retain(|number| is_later(&source.queue, number));
            numbers.sort_unstable();
            if filter.newest_first {
                numbers.reverse();
            }
            (source.numbers, source.rest) = (numbers.into(), None);
        }
        Ok(sources)
    }

    /// The numbers of the small sets of a state of some of these queues, by the places of those.
    async fn whole_sets(
        &self,
        sources: &[NumberSource],
        places: &[usize],
        state: &str,
    ) -> Result<Vec<(usize, Vec<String>)>, Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        for place in places {
            let set = key(&sources[*place].queue, state);
            pipeline.cmd("ZRANGE").arg(set).arg(0).arg(STATE_SET_MAX);
        }
        let sets: Vec<Vec<String>> = self.ask_all("list jobs", &pipeline).await?;
        Ok(places.iter().copied().zip(sets).collect())
    }

    /// The next numbers of all queues together, each with the place of its queue.
    async fn next_numbers(
        &self,
        sources: &mut [NumberSource],
        wanted: usize,
        newest_first: bool,
    ) -> Result<VecDeque<(String, String)>, Error> {
        let mut found = VecDeque::new();
        while found.len() < wanted {
            self.read_on(sources, newest_first).await?;
            let heads = sources.iter().enumerate().filter_map(|(place, source)| {
                Some(((source.numbers.front()?, &source.queue), place))
            });
            let next = if newest_first {
                heads.max()
            } else {
                heads.min()
            };
            let Some((_, place)) = next else {
                break;
            };
            let source = &mut sources[place];
            if let Some(number) = source.numbers.pop_front() {
                found.push_back((source.queue.clone(), number));
            }
        }
        Ok(found)
    }

    /// Reads more numbers of each queue of which none is left.
    async fn read_on(&self, sources: &mut [NumberSource], newest_first: bool) -> Result<(), Error> {
        let mut empty: Vec<&mut NumberSource> = sources
            .iter_mut()
            .filter(|source| source.numbers.is_empty() && source.rest.is_some())
            .collect();
        if empty.is_empty() {
            return Ok(());
        }
        let mut pipeline = pipe();
        empty.iter().for_each(|source| {
            pipeline.add_command(source.ask(newest_first));
        });
        let numbers: Vec<Vec<String>> = self.ask_all("list jobs", &pipeline).await?;
        empty
            .iter_mut()
            .zip(numbers)
            .for_each(|(source, numbers)| source.add(numbers));
        Ok(())
    }

    /// Takes the first of these jobs, and adds those that meet the filter, as far as there is room
    /// and until the bytes of the page are too many; the last one that was taken.
    async fn add_jobs(
        &self,
        numbers: &mut VecDeque<(String, String)>,
        filter: &JobFilter,
        jobs: &mut Vec<JobInfo>,
        bytes: &mut usize,
    ) -> Result<Option<JobId>, Error> {
        let mut last = None;
        let fits = self.meet(numbers, filter).await?;
        let room = filter.limit - jobs.len();
        let fitting = numbers.iter().zip(&fits).filter(|(_, fits)| **fits);
        let fitting: Vec<_> = fitting.map(|(number, _)| number).take(room).collect();
        let mut sizes = self.sizes(&fitting).await?.into_iter();
        let mut listed = Vec::new();
        for fits in fits {
            if listed.len() == room || *bytes > JobFilter::PAGE_BYTES_MAX {
                break;
            }
            let Some((queue, number)) = numbers.pop_front() else {
                break;
            };
            last = Some(id_of(&queue, &number));
            if fits {
                *bytes += sizes.next().unwrap_or_default();
                listed.push((queue, number));
            }
        }
        let mut pipeline = pipe();
        for (queue, number) in &listed {
            pipeline
                .cmd("HGETALL")
                .arg(key(queue, &format!("job:{number}")));
            pipeline
                .cmd("LRANGE")
                .arg(key(queue, &format!("history:{number}")))
                .arg(0)
                .arg(-1);
        }
        if listed.is_empty() {
            return Ok(last);
        }
        let values: Vec<Value> = self.ask_all("list jobs", &pipeline).await?;
        let mut values = values.into_iter();
        for (queue, number) in &listed {
            let fields = fields_of_hash(values.next().unwrap_or(Value::Nil))?;
            let history: Vec<String> = read(values.next().unwrap_or(Value::Nil))?;
            let mut job = info(queue, number, &fields, &history);
            // It may have changed meanwhile.
            if !fields.is_empty() && filter.matches(&job) {
                job.leased_at = self.leased_at(queue, &fields).await;
                self.name_unsettled(&mut job, number).await?;
                jobs.push(job);
            }
        }
        Ok(last)
    }

    /// How many bytes these jobs have.
    async fn sizes(&self, numbers: &[&(String, String)]) -> Result<Vec<usize>, Error> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        for (queue, number) in numbers {
            let job = key(queue, &format!("job:{number}"));
            for field in LARGE_FIELDS {
                pipeline.cmd("HSTRLEN").arg(&job).arg(field);
            }
        }
        let sizes: Vec<usize> = self.ask_all("list jobs", &pipeline).await?;
        let of_jobs = sizes.chunks(LARGE_FIELDS.len());
        Ok(of_jobs.map(|sizes| sizes.iter().sum()).collect())
    }

    /// Which of these jobs meet a filter.
    async fn meet(
        &self,
        numbers: &VecDeque<(String, String)>,
        filter: &JobFilter,
    ) -> Result<Vec<bool>, Error> {
        let names = fields_for(filter);
        if names.is_empty() {
            return Ok(vec![true; numbers.len()]);
        }
        let pieces = match filter.text {
            Some(_) => pieces_of(&self.payload_sizes(numbers).await?),
            None => vec![numbers.len()],
        };
        let (mut left, mut fits) = (numbers.iter(), Vec::new());
        for piece in pieces {
            let jobs: Vec<_> = left.by_ref().take(piece).collect();
            let mut pipeline = pipe();
            for (queue, number) in &jobs {
                pipeline
                    .cmd("HMGET")
                    .arg(key(queue, &format!("job:{number}")))
                    .arg(&names);
            }
            let values: Vec<Vec<Option<Vec<u8>>>> = self.ask_all("list jobs", &pipeline).await?;
            fits.extend(jobs.iter().zip(values).map(|((queue, number), values)| {
                let fields = names
                    .iter()
                    .zip(values)
                    .filter_map(|(name, value)| {
                        let value = String::from_utf8_lossy(&value?).into_owned();
                        Some(((*name).to_owned(), value))
                    })
                    .collect();
                filter.matches(&info(queue, number, &fields, &[]))
            }));
        }
        Ok(fits)
    }

    async fn payload_sizes(
        &self,
        numbers: &VecDeque<(String, String)>,
    ) -> Result<Vec<usize>, Error> {
        let mut pipeline = pipe();
        for (queue, number) in numbers {
            let job = key(queue, &format!("job:{number}"));
            pipeline.cmd("HSTRLEN").arg(job).arg("payload");
        }
        self.ask_all("list jobs", &pipeline).await
    }
}

/// How many jobs are read in each round trip, of those whose payloads have these sizes.
fn pieces_of(sizes: &[usize]) -> Vec<usize> {
    let (mut pieces, mut bytes) = (Vec::new(), 0_usize);
    for size in sizes {
        bytes = bytes.saturating_add(*size);
        match pieces.last_mut() {
            Some(piece) if bytes <= TEXT_BYTES_MAX => *piece += 1,
            _ => {
                pieces.push(1);
                bytes = *size;
            }
        }
    }
    pieces
}

/// The fields that decide whether a job meets a filter; none for one that every job meets.
fn fields_for(filter: &JobFilter) -> Vec<&'static str> {
    let is_dated = filter.pushed_from.is_some() || filter.pushed_until.is_some();
    let fields = [
        ("state", filter.state.is_some()),
        ("task", filter.task.is_some() || filter.no_task),
        ("options", filter.label.is_some()),
        ("key", filter.key.is_some()),
        ("payload", filter.text.is_some()),
        ("reason", filter.reason.is_some()),
        ("pushed_at", is_dated),
    ];
    let needed = fields.into_iter().filter(|(_, is_needed)| *is_needed);
    needed.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_payloads_are_read_a_few_at_a_time() {
        let whole = TEXT_BYTES_MAX;
        assert_eq!(pieces_of(&[1; 500]), [500]);
        assert_eq!(pieces_of(&[whole / 4; 10]), [4, 4, 2]);
        assert_eq!(pieces_of(&[whole, whole, 2 * whole, 0, 1]), [1, 1, 1, 2]);
        assert!(pieces_of(&[]).is_empty());
    }
}
