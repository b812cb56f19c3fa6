//! `dateline serve`: opens the store, imports files if asked to, and serves until told to stop.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::CommandError;
use crate::article::{FieldViolation, Limits};
use crate::config::{DurabilitySetting, Period, ServeConfig, ServeFlags};
use crate::formats::{ArticleReader, DraftAt, ReadError, article_files};
use crate::grpc::CallLimits;
use crate::server::{ServeOptions, serve};
use crate::storage::{self, ArticleStore, History, OutcomeCounts, Write, WriteBatch};
use crate::{shutdown, telemetry};

/// Articles of one step of an import, and about how many bytes of them.
const IMPORT_STEP: usize = 500;
const IMPORT_STEP_BYTES: usize = 4 << 20;

/// Starts the daemon.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline serve --import seeds\n  dateline serve --data /var/lib/dateline --listen 127.0.0.1:0\n\nSIGTERM and Ctrl-C drain: calls under way finish, new ones get UNAVAILABLE, nothing is lost.\nSettings may also stand in the environment (DATELINE_DATA, DATELINE_LISTEN ...) and in the --config file."
)]
pub struct ServeArgs {
    /// The folder that holds the data; created where it is missing [default: ./dateline-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The address to listen on; port 0 picks a free one and prints it [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Article files, or folders of them, to import before serving (seed text, NDJSON, also .gz and .zst)
    #[arg(long, value_name = "PATH")]
    import: Vec<PathBuf>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What an acknowledgement promises [default: fsync]
    #[arg(long, value_enum)]
    durability: Option<DurabilitySetting>,
    /// Seconds after which an ingest stream that did not advance is forgotten; -1 for never [default: 604800, 7 days]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stream_expiry_seconds: Option<i64>,
    /// How many earlier revisions of an article to keep: all, none or a number [default: all]
    #[arg(long, value_name = "all|none|N")]
    history: Option<History>,
    /// Trim the change log of superseded changes, and later of deletions, that are older than this, such as 30d [default: keep all]
    #[arg(long, value_name = "AGE")]
    change_retention_age: Option<Period>,
    /// The same of those that are not among the latest N changes [default: keep all]
    #[arg(long, value_name = "N")]
    change_retention_count: Option<u64>,
    /// How long deletions stay after that, so that whoever reads all changes from the beginning can finish [default: 1h]
    #[arg(long, value_name = "TIME")]
    change_rebuild_time: Option<Period>,
    /// Listen on an address that other machines reach, though nothing is encrypted or authenticated
    #[arg(long)]
    insecure: bool,
}

/// Runs the daemon until it is told to stop.
pub async fn run(args: ServeArgs) -> Result<(), CommandError> {
    let flags = ServeFlags {
        data: args.data,
        listen: args.listen,
        insecure: args.insecure.then_some(true),
        durability: args.durability,
        stream_expiry_seconds: args.stream_expiry_seconds,
        history: args.history,
        change_retention_age: args.change_retention_age,
        change_retention_count: args.change_retention_count,
        change_rebuild_time: args.change_rebuild_time,
    };
    let config = ServeConfig::load(&flags, args.config.as_deref()).map_err(CommandError::Usage)?;
    telemetry::start();
    let failed = |text: String| CommandError::Failed(text);
    let stop = shutdown::on_signals().map_err(|error| failed(format!("signals cannot be listened for: {error}")))?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        failed(format!("cannot listen on {}: {error}: stop what listens there, or choose another address with --listen", config.listen))
    })?;
    let address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
    let (data, options) = (config.data.clone(), config.store_options());
    let opened = tokio::task::spawn_blocking(move || storage::open(&data, options)).await;
    let store = opened.map_err(|_| failed(format!("the store in {} cannot be opened: the engine panicked", config.data.display())))?;
    let store = store.map_err(|error| failed(error.to_string()))?;

    let mut import = Import { problems: 0, counts: OutcomeCounts::default(), limits: config.limits(), stop: stop.clone() };
    for path in &args.import {
        import.path(&store, path).await.map_err(|error| failed(format!("the import of {} failed: {error}", path.display())))?;
    }
    if !args.import.is_empty() {
        let OutcomeCounts { created, updated, unchanged, rejected, .. } = import.counts;
        say(&format!("imported: {created} created, {updated} updated, {unchanged} unchanged, {rejected} rejected"));
    }
    if stop.is_cancelled() {
        say("stopped before everything was imported: what was is stored");
        return store.close().await.map_err(|error| failed(error.to_string()));
    }
    let stats = store.stats().await.map_err(|error| failed(error.to_string()))?;
    let span = stats.date_span.map(|(first, last)| format!(" of {first} to {last}")).unwrap_or_default();
    say(&format!("{} holds {} articles{span}", config.data.display(), stats.contents.articles));
    say(&format!("listening on http://{address}"));

    let limits = CallLimits { article: config.limits(), reader_patience: config.reader_patience(), ..CallLimits::default() };
    let served = serve(listener, Arc::clone(&store), ServeOptions { limits, drain: config.drain() }, stop).await;
    let closed = store.close().await;
    served.map_err(failed)?;
    closed.map_err(|error| failed(error.to_string()))?;
    if import.problems > 0 {
        return Err(failed(format!("{} articles could not be imported; they are named above", import.problems)));
    }
    Ok(())
}

/// One line on standard output, at once. Nobody may be reading; that is no reason to stop.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// Takes files into the store before it is served.
struct Import {
    problems: u64,
    counts: OutcomeCounts,
    limits: Limits,
    /// Cancelled where the daemon is told to stop: the import ends then with what it has.
    stop: CancellationToken,
}

impl Import {
    async fn path(&mut self, store: &Arc<dyn ArticleStore>, path: &std::path::Path) -> Result<(), String> {
        let files = match article_files(path) {
            Ok(files) => files,
            Err(error) => return Err(error.to_string()),
        };
        for file in files {
            let mut reader = match ArticleReader::open(&file) {
                Ok(reader) => Some(reader),
                Err(error) => {
                    self.problem(&error.to_string());
                    None
                }
            };
            while let Some(open) = reader.take() {
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                let (rest, batch) = self.step(open).await?;
                let outcome = store.write(WriteBatch { writes: batch, stream: None }).await.map_err(|error| error.to_string())?;
                outcome.outcomes.iter().for_each(|outcome| self.counts.add(outcome));
                reader = rest;
            }
        }
        Ok(())
    }

    /// Reads and checks the next articles, on a thread where reading may block. Gives the reader back where more may follow.
    async fn step(&mut self, mut reader: ArticleReader) -> Result<(Option<ArticleReader>, Vec<Write>), String> {
        let limits = self.limits;
        let format = reader.format();
        let read = tokio::task::spawn_blocking(move || {
            let (mut writes, mut problems, mut rejected, mut bytes, mut more) = (Vec::new(), Vec::new(), 0, 0, true);
            while writes.len() < IMPORT_STEP && bytes < IMPORT_STEP_BYTES && more {
                match reader.next() {
                    None => more = false,
                    Some(Ok(DraftAt { location, draft })) => match draft.validate(&limits) {
                        Ok(article) => {
                            bytes += article.size();
                            writes.push(Write::put(article));
                        }
                        Err(violations) => {
                            rejected += 1;
                            let line = |violation: &FieldViolation| format!("{}: {violation}", location.of_field(format, &violation.field));
                            problems.extend(violations.iter().map(line));
                        }
                    },
                    Some(Err(error)) => {
                        more = !ReadError::is_fatal(&error);
                        rejected += 1;
                        problems.push(error.to_string());
                    }
                }
            }
            (more.then_some(reader), writes, problems, rejected)
        });
        let (rest, writes, problems, rejected) = read.await.map_err(|error| error.to_string())?;
        problems.iter().for_each(|problem| self.problem(problem));
        self.counts.rejected += rejected;
        Ok((rest, writes))
    }

    fn problem(&mut self, problem: &str) {
        self.problems += 1;
        eprintln!("dateline: {problem}");
    }
}
