//! Failures of a test that goes on after one: put together by kind, with an example of each.

use std::collections::BTreeMap;

/// What went wrong.
#[derive(Debug, Default)]
pub struct Failures {
    /// By kind: how often, and the first.
    kinds: BTreeMap<(&'static str, String), (usize, String)>,
}

impl Failures {
    /// Adds one. Errors of one group that differ only in numbers are of one kind.
    pub fn add(&mut self, group: &'static str, text: &str, error: &str) {
        let kind: String = error.lines().last().unwrap_or_default().chars().filter(|char| !char.is_ascii_digit()).take(90).collect();
        let (number, _) = self.kinds.entry((group, kind)).or_insert_with(|| (0, text.to_owned()));
        *number += 1;
    }

    /// The figures where there were none; with them the failures.
    pub fn report(self, figures: String) -> Result<String, String> {
        if self.kinds.is_empty() {
            return Ok(figures);
        }
        let number: usize = self.kinds.values().map(|(number, _)| number).sum();
        let line = |((group, _), (number, first)): ((&str, String), (usize, String))| format!("  {number} times, {group}: {first}");
        let lines: Vec<_> = self.kinds.into_iter().map(line).collect();
        Err(format!("{figures}\n{number} wrong:\n{}", lines.join("\n")))
    }
}
