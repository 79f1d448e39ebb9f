//! The flow of a job as a graph.
//!
//! The last job is on the right, and each job stands as far to the left as it is from that. Jobs
//! that ended and were not kept are drawn as one node with their number. The drawing is SVG text
//! that the page has as it is, so every name in it is escaped here.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use brigade::{Broker, Error, JobId, JobInfo, JobState};

use super::viewer::encoded;
use super::words::state_word;
use crate::flow::FlowJobs;

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
    let flow = FlowJobs::of(broker, job.clone()).await?;
    Ok(Some(drawn(job, &flow, base)))
}

/// A job, or a number of jobs that are gone, with its place.
struct Node<'a> {
    job: Option<&'a JobInfo>,
    gone: u32,
    dependent: Option<JobId>,
    column: usize,
    row: usize,
}

fn drawn(job: &JobInfo, flow: &FlowJobs, base: &str) -> FlowGraph {
    let mut nodes = nodes_of(flow);
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
        is_cut: flow.is_cut,
    }
}

/// The nodes by their depth, the ids of one depth in order; the depth is the way to the last job.
fn nodes_of(flow: &FlowJobs) -> Vec<Node<'_>> {
    let gone = flow.gone();
    let mut nodes = Vec::new();
    for job in flow.in_order() {
        let gone = gone.get(&job.id).copied().unwrap_or(0);
        let column = flow.depth(job);
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
