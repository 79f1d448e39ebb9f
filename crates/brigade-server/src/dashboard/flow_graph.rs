//! The flow of a job as a graph.
//!
//! A job knows its dependent and how many parents it has, so the graph is found in two steps: along
//! the dependents to the last job, and among the jobs that were pushed at the same moment, as those
//! of a flow are. Jobs that ended and were not kept are gone from the broker; they are drawn as one
//! node with their number.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use brigade::{Broker, Error, JobFilter, JobId, JobInfo, JobState};

use super::viewer::encoded;
use super::words::state_word;

/// Jobs that a graph shows.
const NODES_MAX: usize = 200;
/// Pages of jobs that are read for it.
const PAGES_MAX: usize = 4;
const PAGE: usize = 500;

const WIDTH: usize = 172;
const HEIGHT: usize = 36;
const GAP_X: usize = 44;
const GAP_Y: usize = 12;

/// A drawn flow.
pub(super) struct FlowGraph {
    pub(super) svg: String,
    /// `7 of 12 done`.
    pub(super) summary: String,
    /// Whether there are jobs that it leaves out.
    pub(super) is_cut: bool,
}

/// The graph of a job's flow; `None` if it is of none.
pub(super) async fn flow_of(
    broker: &Broker,
    job: &JobInfo,
    base: &str,
) -> Result<Option<FlowGraph>, Error> {
    if job.parents.is_none() && job.dependent.is_none() {
        return Ok(None);
    }
    let mut members = HashMap::from([(job.id.clone(), job.clone())]);
    let mut is_cut = pushed_with(broker, job, &mut members).await?;
    let mut next = job.dependent.clone();
    while let Some(id) = next.take() {
        if members.len() >= NODES_MAX {
            is_cut = true;
            break;
        }
        let known = members.get(&id).cloned();
        let found = match known {
            Some(found) => Some(found),
            None => broker.job(&id).await?,
        };
        if let Some(found) = found {
            next = found.dependent.clone();
            members.insert(found.id.clone(), found);
        }
    }
    let members = connected(job, members);
    Ok(Some(drawn(job, &members, base, is_cut)))
}

/// Adds the jobs that were pushed at the same moment. Whether there may be more.
async fn pushed_with(
    broker: &Broker,
    job: &JobInfo,
    members: &mut HashMap<JobId, JobInfo>,
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
        members.extend(of_flows.map(|job| (job.id.clone(), job)));
        filter.after = page.next;
        if filter.after.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Those that a chain of dependents joins with the job.
fn connected(job: &JobInfo, members: HashMap<JobId, JobInfo>) -> HashMap<JobId, JobInfo> {
    let last_of = |start: &JobInfo| {
        let (mut last, mut steps) = (start.id.clone(), 0);
        while let Some(next) = members.get(&last).and_then(|job| job.dependent.clone()) {
            last = next;
            steps += 1;
            if steps > members.len() {
                break;
            }
        }
        last
    };
    let root = last_of(job);
    let kept: Vec<JobId> = members
        .values()
        .filter(|member| last_of(member) == root)
        .map(|member| member.id.clone())
        .collect();
    let mut members = members;
    members.retain(|id, _| kept.contains(id));
    members
}

/// A job, or a number of jobs that are gone, with its place.
struct Node<'a> {
    job: Option<&'a JobInfo>,
    gone: u32,
    dependent: Option<JobId>,
    column: usize,
    row: usize,
}

fn drawn(job: &JobInfo, members: &HashMap<JobId, JobInfo>, base: &str, is_cut: bool) -> FlowGraph {
    let mut nodes = nodes_of(members);
    let deepest = nodes.iter().map(|node| node.column).max().unwrap_or(0);
    let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
    for node in &mut nodes {
        // The last job is on the right.
        node.column = deepest - node.column;
        let row = rows.entry(node.column).or_default();
        node.row = *row;
        *row += 1;
    }
    let tallest = rows.values().copied().max().unwrap_or(1);
    let size = (
        (deepest + 1) * WIDTH + deepest * GAP_X + 4,
        tallest * (HEIGHT + GAP_Y) - GAP_Y + 4,
    );
    let mut places: HashMap<&JobId, (usize, usize)> = HashMap::new();
    let place = |node: &Node<'_>| {
        let in_column = rows[&node.column];
        // Columns with few nodes stand in the middle.
        let offset = (tallest - in_column) * (HEIGHT + GAP_Y) / 2;
        (
            2 + node.column * (WIDTH + GAP_X),
            2 + offset + node.row * (HEIGHT + GAP_Y),
        )
    };
    for node in &nodes {
        if let Some(job) = node.job {
            places.insert(&job.id, place(node));
        }
    }
    let (width, height) = size;
    let mut svg = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"group\" \
            aria-label=\"the jobs of the flow\">"
    );
    for node in &nodes {
        if let Some(target) = node.dependent.as_ref().and_then(|id| places.get(id)) {
            edge(&mut svg, place(node), *target);
        }
    }
    for node in &nodes {
        write_node(&mut svg, node, place(node), job, base);
    }
    svg.push_str("</svg>");
    FlowGraph {
        svg,
        summary: summary(&nodes),
        is_cut,
    }
}

/// The nodes by their depth, the ids of one depth in order; the depth is the way to the last job.
fn nodes_of(members: &HashMap<JobId, JobInfo>) -> Vec<Node<'_>> {
    let depth = |job: &JobInfo| {
        let (mut depth, mut next) = (0, job.dependent.clone());
        while let Some(found) = next.and_then(|id| members.get(&id)) {
            depth += 1;
            next = found.dependent.clone();
            if depth > members.len() {
                break;
            }
        }
        depth
    };
    let mut sorted: Vec<&JobInfo> = members.values().collect();
    sorted.sort_by(|a, b| {
        (a.id.as_str().len(), a.id.as_str()).cmp(&(b.id.as_str().len(), b.id.as_str()))
    });
    let mut parents_known: HashMap<&JobId, u32> = HashMap::new();
    for dependent in sorted.iter().filter_map(|job| job.dependent.as_ref()) {
        *parents_known.entry(dependent).or_default() += 1;
    }
    let mut nodes = Vec::new();
    for job in sorted {
        let known = parents_known.get(&job.id).copied().unwrap_or(0);
        let gone = job
            .parents
            .as_ref()
            .map_or(0, |parents| parents.total.saturating_sub(known));
        let column = depth(job);
        if gone > 0 {
            nodes.push(Node {
                job: None,
                gone,
                dependent: Some(job.id.clone()),
                column: column + 1,
                row: 0,
            });
        }
        nodes.push(Node {
            job: Some(job),
            gone: 0,
            dependent: job.dependent.clone(),
            column,
            row: 0,
        });
    }
    nodes
}

fn edge(svg: &mut String, from: (usize, usize), to: (usize, usize)) {
    let (x, y) = (from.0 + WIDTH, from.1 + HEIGHT / 2);
    let (end_x, end_y) = (to.0, to.1 + HEIGHT / 2);
    let middle = x + GAP_X / 2;
    _ = write!(
        svg,
        "<path class=\"edge\" d=\"M{x} {y}H{middle}V{end_y}H{end_x}\"/>"
    );
}

fn write_node(
    svg: &mut String,
    node: &Node<'_>,
    (x, y): (usize, usize),
    own: &JobInfo,
    base: &str,
) {
    let (state, name, link) = match node.job {
        Some(job) => {
            let name = job
                .task
                .as_ref()
                .or(job.label.as_ref())
                .unwrap_or(&job.queue);
            let link = format!("{base}/jobs/{}", encoded(job.id.as_str()));
            (state_word(job.state), name.clone(), Some(link))
        }
        None => ("done", format!("{} ended", node.gone), None),
    };
    let is_own = node.job.is_some_and(|job| job.id == own.id);
    let own_class = if is_own { " self" } else { "" };
    if let Some(link) = &link {
        _ = write!(svg, "<a href=\"{}\">", escaped(link));
    }
    let shown: String = name.chars().take(17).collect();
    let shown = if shown.len() < name.len() {
        format!("{shown}…")
    } else {
        shown
    };
    let small = match node.job {
        Some(_) => state.to_owned(),
        None => "and not kept".to_owned(),
    };
    _ = write!(
        svg,
        "<g class=\"node {state}{own_class}\"><title>{}: {small}</title>\
            <rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"4\"/>\
            <use href=\"#i-{state}\" x=\"{}\" y=\"{}\" width=\"14\" height=\"14\"/>\
            <text x=\"{}\" y=\"{}\">{}</text><text class=\"small\" x=\"{}\" y=\"{}\">{small}</text></g>",
        escaped(&name),
        x + 10,
        y + 11,
        x + 32,
        y + 15,
        escaped(&shown),
        x + 32,
        y + 29,
    );
    if link.is_some() {
        svg.push_str("</a>");
    }
}

fn summary(nodes: &[Node<'_>]) -> String {
    let gone: usize = nodes.iter().map(|node| node.gone as usize).sum();
    let jobs = nodes.iter().filter_map(|node| node.job);
    let done = jobs
        .clone()
        .filter(|job| job.state == JobState::Done)
        .count();
    let missed = jobs
        .clone()
        .filter(|job| matches!(job.state, JobState::Dead | JobState::Cancelled))
        .count();
    let mut text = format!("{} of {} ended well", done + gone, jobs.count() + gone);
    if missed > 0 {
        _ = write!(text, ", {missed} did not");
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
