//! The benchmark suite: `cargo bench`. It starts the daemon and a bare server, drives both with the same load, and reports what
//! they do and what they cost beside each other.
//!
//! benches/README.md tells how to run it and how to read what it prints.

mod append_log;
mod bounds;
mod ceiling;
mod compression;
mod connection;
mod corpus;
mod figures;
mod load;
mod machine;
mod options;
mod phases;
mod report;
mod server;
mod single;
mod wire;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use dateline::shutdown;
use tokio::time::timeout;

use corpus::Corpus;
use machine::Machine;
use options::Options;
use phases::{Phase, Runner, growth};
use report::Report;
use server::{Launch, Subject};

/// The daemon's allocator, for the bare server and the load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What was asked for, or why it cannot be had.
pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A phase that takes longer than this, and this for every article, hangs.
const PATIENCE: Duration = Duration::from_secs(300);
const SLOWEST_ARTICLE: Duration = Duration::from_millis(4);

fn main() -> ExitCode {
    let options = Options::parse();
    let run = || -> Fallible<bool> {
        if let Some(folder) = &options.ceiling {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            return runtime.block_on(ceiling::serve(folder)).map(|()| true);
        }
        if let Some(path) = &options.compression {
            return compression::measure(path).map(|()| true);
        }
        // The load has a single thread: it wakes no others, and leaves the other cores to the server.
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let stop = shutdown::on_signals()?;
            tokio::select! {
                holds = run(&options) => holds,
                // What was begun is dropped: servers end, and their data goes.
                () = stop.cancelled() => Err("told to stop".into()),
            }
        })
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("suite: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what the options ask for. False where a bound is exceeded.
async fn run(options: &Options) -> Fallible<bool> {
    let folder = options.data.clone().unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let launch = Launch { dateline: options.dateline.clone(), folder };
    std::fs::create_dir_all(&launch.folder)?;
    let machine = Machine::this(&launch.folder);
    let corpus = match &options.articles {
        Some(path) => Corpus::read(path, options.count())?,
        None => Corpus::generated(options.seed, options.count()),
    };
    let count = corpus.count(options.count());
    let corpus = Arc::new(corpus);
    let mut report = Report::new(machine, count, &corpus.profile(count)?);
    println!("{}\n", report.heading());
    if !options.growth.is_empty() {
        let (figures, table) = growth(corpus, options.growth.clone(), &launch, options.time()).await?;
        println!("{table}");
        report.figures = figures;
        return report.write(options.json.as_deref()).map(|()| true);
    }
    let mut runner = Runner::new(corpus, count, launch, options.time());
    if options.check {
        return bounds::check(&mut runner).await;
    }
    let patience = PATIENCE + SLOWEST_ARTICLE * count as u32;
    // In the order of all phases: those that write change what others expect to find.
    for phase in Phase::ALL.into_iter().filter(|phase| options.phases.is_empty() || options.phases.contains(phase)) {
        for subject in [Subject::Ceiling, Subject::Dateline] {
            let figures =
                timeout(patience, runner.run(phase, subject)).await.map_err(|_| format!("{phase}, {subject:?}: takes too long"))?;
            let figures = figures.map_err(|error| format!("{phase}, {subject:?}: {error}"))?;
            if let Some(figures) = figures {
                eprintln!("{phase}, {subject:?}: {:.0}/s, {:.1} µs", figures.per_second, figures.all_cpu_us());
                report.figures.push(figures);
            }
        }
    }
    println!("{}", report.table());
    report.write(options.json.as_deref()).map(|()| true)
}
