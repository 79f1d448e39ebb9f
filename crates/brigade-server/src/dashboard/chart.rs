//! Charts as inline SVG, made by the server.
//!
//! A chart is a plot without text that is stretched to its place, and labels in HTML around it, so
//! that text has one size at every width. Values are drawn from zero, straight from point to point;
//! where there is no data, there is a gap. The numbers stand in a table under the chart, which the
//! script reads for the value under the pointer.

use std::fmt::Write as _;

/// Height of a plot in its own units.
const HEIGHT: f64 = 100.0;

/// Values of one line or area; `None` where there is no data.
pub(super) struct Layer {
    /// Its name, in the legend and the table.
    pub(super) name: &'static str,
    /// The class that colours it.
    pub(super) class: &'static str,
    pub(super) values: Vec<Option<f64>>,
}

/// How values are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ChartKind {
    /// Areas, one on the other.
    Stacked,
    /// Lines over each other.
    Lines,
}

/// A chart for a template.
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) layers: Vec<Layer>,
    kind: ChartKind,
    /// Text of a value.
    text: fn(f64) -> String,
    /// The value at the top.
    top: f64,
    /// Labels under the plot, from left to right.
    pub(super) marks: [&'static str; 3],
    /// The label of each place, for the table.
    pub(super) places: Vec<String>,
}

impl Chart {
    pub(super) fn new(
        (id, title, unit): (&'static str, &'static str, &'static str),
        kind: ChartKind,
        layers: Vec<Layer>,
        text: fn(f64) -> String,
    ) -> Self {
        let places = layers.first().map_or(0, |layer| layer.values.len());
        let highest = (0..places).fold(0.0_f64, |highest, place| {
            let values = layers.iter().filter_map(|layer| layer.values[place]);
            let value = match kind {
                ChartKind::Stacked => values.sum(),
                ChartKind::Lines => values.fold(0.0, f64::max),
            };
            highest.max(value)
        });
        let labels = (0..places).map(|place| {
            let ago = places - 1 - place;
            if ago == 0 {
                "now".to_owned()
            } else {
                format!("−{ago}")
            }
        });
        Self {
            id,
            title,
            unit,
            kind,
            text,
            top: match kind {
                ChartKind::Stacked => round_up(highest),
                ChartKind::Lines => round_up_time(highest),
            },
            marks: ["−60 min", "−30 min", "now"],
            places: labels.collect(),
            layers,
        }
    }

    /// Over a day, in buckets of ten minutes.
    pub(super) fn over_a_day(mut self) -> Self {
        self.marks = ["−24 h", "−12 h", "now"];
        let count = self.places.len();
        for (place, label) in self.places.iter_mut().enumerate() {
            let minutes = (count - 1 - place) * 10;
            *label = match minutes {
                0 => "now".to_owned(),
                minutes => format!("−{}:{:02} h", minutes / 60, minutes % 60),
            };
        }
        self
    }

    /// Whether there is anything to draw.
    pub(super) fn is_empty(&self) -> bool {
        !self
            .layers
            .iter()
            .any(|layer| layer.values.iter().any(Option::is_some))
    }

    /// Labels of the vertical axis, from the top.
    pub(super) fn scale(&self) -> [String; 3] {
        [self.top, self.top / 2.0, 0.0].map(self.text)
    }

    /// Rows of the table: a label, and a text for each layer.
    pub(super) fn rows(&self) -> Vec<(&str, Vec<String>)> {
        self.places
            .iter()
            .enumerate()
            .map(|(place, label)| {
                let texts = self
                    .layers
                    .iter()
                    .map(|layer| layer.values[place].map_or_else(|| "–".to_owned(), self.text));
                (label.as_str(), texts.collect())
            })
            .collect()
    }

    /// The newest value of the first layer, for the heading.
    pub(super) fn summary(&self) -> String {
        let text = |layer: &Layer| {
            let value = layer.values.iter().rev().flatten().next().copied();
            let value = value.map_or_else(|| "no data".to_owned(), self.text);
            format!("{} {value}", layer.name)
        };
        self.layers.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// The plot.
    pub(super) fn svg(&self) -> String {
        let count = self.places.len();
        let mut svg = format!(
            "<svg viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
            count.saturating_sub(1).max(1)
        );
        svg.push_str(&grid(count.saturating_sub(1).max(1)));
        let mut below = vec![0.0; count];
        for layer in &self.layers {
            let path = match self.kind {
                ChartKind::Lines => line(&layer.values, self.top),
                ChartKind::Stacked => {
                    let above: Vec<Option<f64>> = layer
                        .values
                        .iter()
                        .zip(&below)
                        .map(|(value, below)| value.map(|value| value + below))
                        .collect();
                    let path = area(&above, &below, self.top);
                    for (below, above) in below.iter_mut().zip(&above) {
                        *below = above.unwrap_or(*below);
                    }
                    path
                }
            };
            let shape = if self.kind == ChartKind::Lines {
                "line"
            } else {
                "area"
            };
            _ = write!(
                svg,
                "<path class=\"{shape} {}\" d=\"{path}\"/>",
                layer.class
            );
        }
        svg.push_str("</svg>");
        svg
    }
}

fn grid(width: usize) -> String {
    let line = |y: u32| format!("M0 {y}H{width}");
    format!("<path class=\"grid\" d=\"{}{}\"/>", line(0), line(50))
}

/// The next of 1, 2, 5, 10, 20, ..; at least 1.
fn round_up(value: f64) -> f64 {
    let mut step = 1.0;
    loop {
        for factor in [1.0, 2.0, 4.0, 5.0] {
            if value <= step * factor {
                return step * factor;
            }
        }
        step *= 10.0;
        if step > 1e18 {
            return value;
        }
    }
}

/// The next duration in seconds that is round, as is its half.
fn round_up_time(seconds: f64) -> f64 {
    const ROUND: [f64; 21] = [
        0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 1.0, 2.0, 4.0, 10.0, 20.0, 40.0, 60.0, 120.0,
        240.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0,
    ];
    let found = ROUND.into_iter().find(|round| seconds <= *round);
    found.unwrap_or_else(|| round_up(seconds / 7_200.0) * 7_200.0)
}

fn height_of(value: f64, top: f64) -> f64 {
    ((HEIGHT - value / top * HEIGHT) * 10.0).round() / 10.0
}

/// A line from point to point; a point alone is a short stroke.
fn line(values: &[Option<f64>], top: f64) -> String {
    let mut path = String::new();
    for (start, run) in runs(values) {
        for (offset, value) in run.iter().enumerate() {
            let y = height_of(*value, top);
            let letter = if offset == 0 { 'M' } else { 'L' };
            _ = write!(path, "{letter}{} {y}", start + offset);
        }
        if run.len() == 1 {
            path.push_str("m-.2 0h.4");
        }
    }
    path
}

/// The area between two lines.
fn area(above: &[Option<f64>], below: &[f64], top: f64) -> String {
    let mut path = String::new();
    for (start, run) in runs(above) {
        for (offset, value) in run.iter().enumerate() {
            let letter = if offset == 0 { 'M' } else { 'L' };
            _ = write!(
                path,
                "{letter}{} {}",
                start + offset,
                height_of(*value, top)
            );
        }
        for offset in (0..run.len()).rev() {
            let y = height_of(below[start + offset], top);
            _ = write!(path, "L{} {y}", start + offset);
        }
        path.push('Z');
    }
    path
}

/// The stretches of values without a gap, each with its place.
fn runs(values: &[Option<f64>]) -> Vec<(usize, Vec<f64>)> {
    let mut runs: Vec<(usize, Vec<f64>)> = Vec::new();
    let mut is_open = false;
    for (place, value) in values.iter().enumerate() {
        match (value, is_open) {
            (Some(value), true) => {
                if let Some((_, run)) = runs.last_mut() {
                    run.push(*value);
                }
            }
            (Some(value), false) => runs.push((place, vec![*value])),
            (None, _) => {}
        }
        is_open = value.is_some();
    }
    runs
}

/// A small line of an hour, without labels: of a row that has the number itself.
pub(super) fn spark(values: &[Option<f64>]) -> String {
    let highest = values.iter().flatten().fold(0.0_f64, |a, b| a.max(*b));
    let width = values.len().saturating_sub(1).max(1);
    let path = line(values, highest.max(1.0));
    format!(
        "<svg class=\"spark\" viewBox=\"0 -4 {width} 108\" preserveAspectRatio=\"none\" \
            aria-hidden=\"true\"><path class=\"line\" d=\"{path}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_round_value() {
        let tops: Vec<f64> = [0.0, 1.0, 1.5, 3.0, 4.9, 61.0, 412.0].map(round_up).into();
        assert_eq!(tops, [1.0, 1.0, 2.0, 4.0, 5.0, 100.0, 500.0]);
    }

    #[test]
    fn the_scale_of_times_ends_at_a_round_one() {
        let tops: Vec<f64> = [0.001, 0.3, 45.0, 1_800.0, 9_000.0]
            .map(round_up_time)
            .into();
        assert_eq!(tops, [0.004, 0.4, 60.0, 1_800.0, 14_400.0]);
    }

    #[test]
    fn a_gap_interrupts_a_line() {
        let values = [Some(0.0), Some(1.0), None, Some(1.0)];
        assert_eq!(line(&values, 1.0), "M0 100L1 0M3 0m-.2 0h.4");
    }

    #[test]
    fn areas_stand_on_each_other() {
        let layer = |name, value| Layer {
            name,
            class: "x",
            values: vec![Some(value); 2],
        };
        let chart = Chart::new(
            ("a", "b", "c"),
            ChartKind::Stacked,
            vec![layer("done", 3.0), layer("failed", 1.0)],
            |value| value.to_string(),
        );
        assert_eq!(chart.scale(), ["4", "2", "0"]);
        let svg = chart.svg();
        assert!(svg.contains("M0 25L1 25L1 100L0 100Z"), "{svg}");
        assert!(svg.contains("M0 0L1 0L1 25L0 25Z"), "{svg}");
        assert_eq!(
            chart.rows()[0],
            ("−1", vec!["3".to_owned(), "1".to_owned()])
        );
    }
}
