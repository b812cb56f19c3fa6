//! The report: a table for people, and everything as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::Fallible;
use crate::corpus::Profile;
use crate::figures::Figures;
use crate::machine::Machine;
use crate::server::Subject;

/// Everything that a run found.
#[derive(Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Articles that were loaded first.
    pub articles: usize,
    /// Bytes of their text in the mean.
    pub mean_text_bytes: f64,
    /// How many times smaller zstd, level 1, makes one text.
    pub zstd_ratio: f64,
    /// Days that they are of.
    pub days: usize,
    /// What was measured, in the order in which it was.
    pub figures: Vec<Figures>,
}

/// One phase of the daemon beside that of the ceiling.
pub struct Pair<'a> {
    /// The daemon's.
    pub dateline: &'a Figures,
    /// The ceiling's, where it has that phase.
    pub ceiling: Option<&'a Figures>,
}

impl Pair<'_> {
    /// The daemon's CPU time for an operation, as a multiple of the ceiling's.
    pub fn cpu_ratio(&self) -> Option<f64> {
        let ceiling = self.ceiling.map(|ceiling| ceiling.all_cpu_us()).filter(|cpu| *cpu > 0.0)?;
        Some(self.dateline.all_cpu_us() / ceiling)
    }
}

impl Report {
    /// A report without figures yet.
    pub fn new(machine: Machine, articles: usize, profile: &Profile) -> Self {
        let Profile { text_bytes, zstd_ratio, days } = *profile;
        Self { machine, articles, mean_text_bytes: text_bytes, zstd_ratio, days, figures: Vec::new() }
    }

    /// The daemon's figures, each beside the ceiling's.
    pub fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        let of = |subject| self.figures.iter().filter(move |figures| figures.subject == subject);
        of(Subject::Dateline).map(move |dateline| {
            let ceiling = of(Subject::Ceiling).find(|ceiling| ceiling.phase == dateline.phase);
            Pair { dateline, ceiling }
        })
    }

    /// Writes everything as JSON, where a file is named.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, file: Option<&Path>) -> Fallible<()> {
        file.map_or(Ok(()), |file| Ok(std::fs::write(file, serde_json::to_vec_pretty(self)?)?))
    }

    /// What the figures are of, in a few lines.
    pub fn heading(&self) -> String {
        let Machine { cpu, cores, memory_mib, kernel, file_system, commit } = &self.machine;
        format!(
            "{cores} cores of {cpu}, {memory_mib} MiB of memory, Linux {kernel}, data on {file_system}, commit {commit}\n{} articles of \
             {:.0} bytes of text in the mean (zstd -1: {:.2}x) on {} days or more",
            self.articles, self.mean_text_bytes, self.zstd_ratio, self.days
        )
    }

    /// A table in Markdown: the daemon's figures, and the ceiling's in as far as they are compared.
    pub fn table(&self) -> String {
        let head = [
            "phase",
            "ops/s",
            "ceiling",
            "p50 ms",
            "p99",
            "p99.9",
            "CPU µs/op",
            "later",
            "ceiling",
            "ratio",
            "load's µs",
            "others %",
            "MiB",
            "besides",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        for pair in self.pairs() {
            let Pair { dateline, ceiling } = &pair;
            let number = |value: Option<f64>, digits: usize| value.map(|value| format!("{value:.digits$}")).unwrap_or_default();
            let mut besides = String::new();
            for (name, value) in &dateline.more {
                // cannot fail: writing to a string.
                write!(besides, "{}{} {value:.2}", if besides.is_empty() { "" } else { ", " }, name.replace('_', " ")).expect("a string");
            }
            if let Some(relative) = ceiling.and_then(|ceiling| ceiling.more.get("rate_to_undisturbed")) {
                besides.push_str(&format!(" (ceiling {relative:.2})"));
            }
            rows.push([
                dateline.phase.clone(),
                number(Some(dateline.per_second), if dateline.per_second < 100.0 { 2 } else { 0 }),
                number(ceiling.map(|ceiling| ceiling.per_second), 0),
                number(dateline.p50_ms, 2),
                number(dateline.p99_ms, 2),
                number(dateline.p999_ms, 2),
                number(Some(dateline.cpu_us), 1),
                number(Some(dateline.deferred_cpu_us), 1),
                number(ceiling.map(|ceiling| ceiling.cpu_us), 1),
                pair.cpu_ratio().map(|ratio| format!("{ratio:.2}x")).unwrap_or_default(),
                number(Some(dateline.generator_cpu_us), 1),
                number(Some(dateline.others_percent), 0),
                number(Some(dateline.peak_memory_mib), 0),
                besides,
            ]);
        }
        markdown(&rows)
    }
}

/// Rows as a table whose columns stand below each other; the first row is the head.
pub fn markdown<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut table = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let fill = " ".repeat(widths[column] - cell.chars().count());
            let text = column == 0 || column + 1 == COLUMNS;
            table.push_str(&if text { format!("| {cell}{fill} ") } else { format!("| {fill}{cell} ") });
        }
        table.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let text = column == 0 || column + 1 == COLUMNS;
                table.push_str(&format!("| {}{} ", "-".repeat(width.saturating_sub(1).max(1)), if text { "-" } else { ":" }));
            }
            table.push_str("|\n");
        }
    }
    table
}
