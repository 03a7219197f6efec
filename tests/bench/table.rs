//! The table that is printed in the end, and the same as JSON.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::measure::median;

/// One line of the table. Rates are MiB/s, memory is MiB.
pub(crate) struct Row {
    name: String,
    ours: u64,
    floor: u64,
    /// Ours beside the floor: of rates, the ratio of each round.
    ratios: Vec<f64>,
    bar: f64,
    /// Whether the ratio must stay below the bar instead of above it.
    less_is_better: bool,
}

impl Row {
    /// A row of rates, of `mib` in each round.
    pub(crate) fn rates(
        name: &str,
        mib: u64,
        ours: &[Duration],
        floor: &[Duration],
        bar: f64,
    ) -> Self {
        let rate = |times: &[Duration]| {
            let rates = times.iter().map(|time| mib as f64 / time.as_secs_f64());
            median(rates.collect()) as u64
        };
        let ratios = ours.iter().zip(floor);
        Self {
            name: format!("{name}, MiB/s"),
            ours: rate(ours),
            floor: rate(floor),
            ratios: ratios
                .map(|(ours, floor)| floor.as_secs_f64() / ours.as_secs_f64())
                .collect(),
            bar,
            less_is_better: false,
        }
    }

    /// A row of measurements in a unit, each beside the floor's of the same round; more is better.
    pub(crate) fn beside(name: &str, ours: &[f64], floor: &[f64], bar: f64) -> Self {
        Self {
            name: name.to_owned(),
            ours: median(ours.to_vec()) as u64,
            floor: median(floor.to_vec()) as u64,
            ratios: ours
                .iter()
                .zip(floor)
                .map(|(ours, floor)| ours / floor)
                .collect(),
            bar,
            less_is_better: false,
        }
    }

    /// A row of measurements in a unit, beside the one that is wanted.
    pub(crate) fn wanted(name: &str, ours: &[f64], wanted: u64, less_is_better: bool) -> Self {
        Self {
            name: name.to_owned(),
            ours: median(ours.to_vec()) as u64,
            floor: wanted,
            ratios: ours.iter().map(|one| one / wanted as f64).collect(),
            bar: 1.0,
            less_is_better,
        }
    }

    /// What counts: the median of the rounds.
    fn ratio(&self) -> f64 {
        median(self.ratios.clone())
    }

    fn spread(&self) -> String {
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        format!("{least:.2} to {most:.2}")
    }

    fn holds(&self) -> bool {
        if self.less_is_better {
            self.ratio() <= self.bar
        } else {
            self.ratio() >= self.bar
        }
    }

    fn bar_text(&self) -> String {
        format!(
            "{} {}",
            if self.less_is_better { "<=" } else { ">=" },
            self.bar
        )
    }

    fn as_json(&self) -> serde_json::Value {
        json!({ "row": self.name, "ours": self.ours, "floor": self.floor, "ratio": self.ratio(), "ratios": self.ratios, "bar": self.bar_text(), "holds": self.holds() })
    }
}

/// Prints the rows for people.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:46} {:>7} {:>7} {:>6} {:>14} {:>7}",
        "row", "ebsfs", "beside", "ratio", "in rounds", "bar"
    );
    for row in rows {
        let ratio = row.ratio();
        let verdict = if row.holds() { "" } else { "  MISSED" };
        println!(
            "{:46} {:>7} {:>7} {ratio:>6.2} {:>14} {:>7}{verdict}",
            row.name,
            row.ours,
            row.floor,
            row.spread(),
            row.bar_text()
        );
    }
}

/// Writes the rows for programs.
pub(crate) fn write_json(rows: &[Row], path: &Path) {
    let rows: Vec<_> = rows.iter().map(Row::as_json).collect();
    let report = json!({ "machine": machine(), "rows": rows });
    fs::write(path, format!("{report:#}\n")).unwrap();
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} x {}, Linux {}",
        cpu.trim_start_matches(['\t', ':', ' ']),
        kernel.trim()
    )
}
