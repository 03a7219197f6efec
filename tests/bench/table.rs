//! The table that is printed in the end, and the same as JSON.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::machine::Machine;
use crate::measure::median;

/// What a row must reach.
#[derive(Clone, Copy)]
enum Bar {
    /// By the median of the ratios.
    AtLeast(f64),
    AtMost(f64),
    /// By the value of every round: what never may be is not excused by a median.
    Never(f64),
    /// Nothing: it is only reported.
    None,
}

/// One line of the table. Rates are MiB/s, memory is MiB.
pub(crate) struct Row {
    name: String,
    ours: f64,
    /// The floor's, the peer's, or what is wanted.
    beside: f64,
    /// Ours beside the other's, of each round.
    ratios: Vec<f64>,
    bar: Bar,
}

impl Row {
    /// A row of rates, of `mib` in each round.
    pub(crate) fn rates(
        name: &str,
        mib: u64,
        ours: &[Duration],
        beside: &[Duration],
        bar: f64,
    ) -> Self {
        let rates = |times: &[Duration]| -> Vec<f64> {
            let rates = times.iter().map(|time| mib as f64 / time.as_secs_f64());
            rates.collect()
        };
        let name = format!("{name}, MiB/s");
        Self::beside(&name, &rates(ours), &rates(beside), bar)
    }

    /// A row of measurements in a unit, each beside the other's of the same round; more is better.
    pub(crate) fn beside(name: &str, ours: &[f64], beside: &[f64], bar: f64) -> Self {
        Self {
            name: name.to_owned(),
            ours: median(ours.to_vec()),
            beside: median(beside.to_vec()),
            ratios: ours
                .iter()
                .zip(beside)
                .map(|(ours, beside)| ours / beside)
                .collect(),
            bar: Bar::AtLeast(bar),
        }
    }

    /// A row of measurements in a unit, beside the one that is wanted.
    pub(crate) fn wanted(name: &str, ours: &[f64], wanted: f64, less_is_better: bool) -> Self {
        let bar = if less_is_better {
            Bar::AtMost(1.0)
        } else {
            Bar::AtLeast(1.0)
        };
        let wanted = vec![wanted; ours.len()];
        Self {
            bar,
            ..Self::beside(name, ours, &wanted, 1.0)
        }
    }

    /// A row of what was counted, of which no round may have more than `most`.
    pub(crate) fn never_more(name: &str, counted: &[f64], most: f64) -> Self {
        Self {
            name: name.to_owned(),
            ours: counted.iter().copied().fold(0.0, f64::max),
            beside: most,
            ratios: vec![],
            bar: Bar::Never(most),
        }
    }

    /// The same with nothing to reach.
    pub(crate) fn reported(self) -> Self {
        Self {
            bar: Bar::None,
            ..self
        }
    }

    /// What counts: the median of the rounds.
    fn ratio(&self) -> Option<f64> {
        (!self.ratios.is_empty()).then(|| median(self.ratios.clone()))
    }

    fn spread(&self) -> String {
        if self.ratios.is_empty() {
            return String::new();
        }
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        format!("{least:.2} to {most:.2}")
    }

    fn holds(&self) -> bool {
        match self.bar {
            Bar::AtLeast(bar) => self.ratio().is_some_and(|ratio| ratio >= bar),
            Bar::AtMost(bar) => self.ratio().is_some_and(|ratio| ratio <= bar),
            Bar::Never(most) => self.ours <= most,
            Bar::None => true,
        }
    }

    fn bar_text(&self) -> String {
        match self.bar {
            Bar::AtLeast(bar) => format!(">= {bar}"),
            Bar::AtMost(bar) => format!("<= {bar}"),
            Bar::Never(most) => format!("<= {most}"),
            Bar::None => String::new(),
        }
    }

    fn as_json(&self) -> serde_json::Value {
        json!({ "row": self.name, "ours": self.ours, "beside": self.beside, "ratio": self.ratio(), "ratios": self.ratios, "bar": self.bar_text(), "holds": self.holds() })
    }
}

/// A number with the digits that mean something.
fn figure(value: f64) -> String {
    match value {
        whole if whole.fract() == 0.0 || whole >= 100.0 => format!("{whole:.0}"),
        more if more >= 1.0 => format!("{more:.1}"),
        less => format!("{less:.3}"),
    }
}

/// Prints the rows for people.
pub(crate) fn print(machine: &Machine, rows: &[Row]) {
    println!("{machine}\n");
    println!(
        "{:74} {:>7} {:>7} {:>6} {:>14} {:>7}",
        "row", "ebsfs", "beside", "ratio", "in rounds", "bar"
    );
    for row in rows {
        let ratio = row.ratio().map_or(String::new(), |r| format!("{r:.2}"));
        let verdict = if row.holds() { "" } else { "  MISSED" };
        println!(
            "{:74} {:>7} {:>7} {ratio:>6} {:>14} {:>7}{verdict}",
            row.name,
            figure(row.ours),
            figure(row.beside),
            row.spread(),
            row.bar_text()
        );
    }
}

/// Writes the rows for programs.
pub(crate) fn write_json(machine: &Machine, rows: &[Row], path: &Path) {
    let rows: Vec<_> = rows.iter().map(Row::as_json).collect();
    let report = json!({ "machine": machine.as_json(), "rows": rows });
    fs::write(path, format!("{report:#}\n")).unwrap();
}
