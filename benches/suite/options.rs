//! What the suite is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::phases::Phase;

/// Articles that --check loads: so many that those from before the first dictionary, which LZ4 did not encode, are few.
const CHECKED: usize = 60_000;

/// Measures Dateline beside a bare server, on this machine: see benches/README.md.
#[derive(Debug, Parser)]
#[command(name = "suite", bin_name = "cargo bench --")]
pub struct Options {
    /// Articles to load before reading
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    pub count: u32,
    /// A file of articles (NDJSON or seed text, also .gz and .zst), or a folder of them, instead of generated ones
    #[arg(long, value_name = "PATH")]
    pub articles: Option<PathBuf>,
    /// The seed of the generated articles
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Phases to run, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    pub phases: Vec<Phase>,
    /// A third of the articles, and half of the time
    #[arg(long)]
    pub quick: bool,
    /// Where to write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to make data folders, which are removed in the end [default: below the build's folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Another build of the daemon
    #[arg(long, value_name = "PROGRAM", default_value = env!("CARGO_BIN_EXE_dateline"))]
    pub dateline: PathBuf,
    /// Only measure what benches/bounds.toml has bounds for, and fail where one is exceeded
    #[arg(long)]
    pub check: bool,
    /// How load, reads and restart of the daemon alone change with the number of articles, at these numbers
    #[arg(long, value_name = "NUMBER,...", value_delimiter = ',', conflicts_with_all = ["articles", "phases", "check"])]
    pub growth: Vec<usize>,
    /// What compression makes of the articles of a file or folder, and what it costs, with and without dictionaries: nothing else
    #[arg(long, value_name = "PATH", conflicts_with_all = ["articles", "phases", "check", "growth"])]
    pub compression: Option<PathBuf>,
    /// Be the bare server, with its file in this folder: what the suite starts itself as
    #[arg(long, hide = true, value_name = "DIR")]
    pub ceiling: Option<PathBuf>,
    /// What cargo calls every benchmark with
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    /// Articles to load first.
    pub fn count(&self) -> usize {
        if self.check {
            return CHECKED;
        }
        if let Some(largest) = self.growth.iter().max() {
            return *largest;
        }
        let count = self.count as usize;
        if self.quick { count.div_ceil(3) } else { count }
    }

    /// How long phases last that have no end of their own.
    pub fn time(&self) -> Duration {
        Duration::from_millis(if self.quick || self.check { 1_500 } else { 3_000 })
    }
}
