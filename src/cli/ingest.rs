//! `dateline ingest`: article files into a running server, over ingest streams that can be resumed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{CommandError, RetryArgs, ServerArgs};
use crate::client::{Client, IngestOptions, to_wire, v1};
use crate::formats::{ArticleReader, Format, Location, article_files};

/// Articles that the reading thread hands over at once, and about how many bytes of them.
const CHUNK_ARTICLES: usize = 500;
const CHUNK_BYTES: usize = 512 << 10;
/// Problems that are printed one by one; the others are counted.
const PRINTED_PROBLEMS: u64 = 100;
const STDIN: &str = "standard input";

/// Stores the articles of files: seed text or NDJSON, also .gz and .zst, folders of them, or - for standard input.
///
/// Where the connection breaks or the server is started anew, it comes back by itself. A run that was cut off goes on where it
/// was when it is started again: each NDJSON file is an ingest stream whose name follows from the file's path, size and time. Articles that are stored already are UNCHANGED and grow nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline ingest articles.ndjson.gz\n  dateline ingest seeds\n  crawl | dateline ingest -\n\nMembers of an NDJSON line: date, url, title, lead, body, and optionally publish_time, modify_time, crawl_time, authors,\nkeywords, section, language, publisher, annotations. Any other is kept as an annotation."
)]
pub struct IngestArgs {
    /// Files, folders, or -
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The name of the ingest stream, to resume it by; for one file
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Print a JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    retry: RetryArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: IngestArgs) -> Result<(), CommandError> {
    let mut files = Vec::new();
    for path in &args.files {
        if path.as_os_str() == "-" {
            files.push(path.clone());
        } else {
            files.extend(article_files(path).map_err(|error| CommandError::Failed(error.to_string()))?);
        }
    }
    if args.stream.is_some() && files.len() != 1 {
        return Err(CommandError::Usage("--stream names the stream of one file: give one file".into()));
    }
    let client = args.server.connect().await?;
    let mut run = Run {
        client,
        retry: args.retry,
        started: Instant::now(),
        told: 0,
        counts: v1::OutcomeCounts::default(),
        before: v1::OutcomeCounts::default(),
        malformed: 0,
        unreadable: 0,
        problems: 0,
    };
    let mut rest = &files[..];
    while let Some(first) = rest.first() {
        // Seed text holds one article a file: what comes one after the other shares a stream.
        let together = rest.iter().take_while(|file| is_seed(file)).count().max(1);
        run.files(first, &rest[1..together], args.stream.as_deref()).await?;
        rest = &rest[together..];
    }
    run.report(args.json)?;
    if run.problems > 0 {
        return Err(CommandError::Failed(format!("{} articles were not stored; everything else was", run.problems)));
    }
    Ok(())
}

struct Run {
    client: Client,
    retry: RetryArgs,
    started: Instant,
    /// Articles with an outcome.
    told: u64,
    /// The outcomes of this run, of the streams that are finished.
    counts: v1::OutcomeCounts,
    /// The outcomes of earlier runs of the same streams.
    before: v1::OutcomeCounts,
    malformed: u64,
    unreadable: u64,
    problems: u64,
}

/// What the reading thread found.
struct Chunk {
    articles: Vec<(Location, v1::Article)>,
    problems: Vec<String>,
    malformed: u64,
    unreadable: u64,
}

impl Run {
    /// Stores the articles of a file, and those of more files in the same format.
    async fn files(&mut self, path: &Path, more: &[PathBuf], stream: Option<&str>) -> Result<(), CommandError> {
        let is_stdin = path.as_os_str() == "-";
        let name = if is_stdin { STDIN.into() } else { path.display().to_string() };
        let opening = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            if is_stdin { ArticleReader::from_reader(STDIN, Box::new(std::io::stdin())) } else { ArticleReader::open(&opening) }
        });
        let reader = match opened.await.map_err(|error| CommandError::Failed(error.to_string()))? {
            Ok(reader) => reader,
            Err(error) => {
                self.unreadable += 1;
                self.problem(None, &error.to_string());
                return match more.split_first() {
                    Some((next, rest)) => Box::pin(self.files(next, rest, stream)).await,
                    None => Ok(()),
                };
            }
        };
        let format = reader.format();
        let derived = match (stream, is_stdin, format) {
            (Some(name), _, _) => name.to_owned(),
            (None, false, Format::Ndjson) => stream_name(path).map_err(|error| CommandError::Failed(format!("{name}: {error}")))?,
            // One article is not worth resuming by a later run, and standard input cannot be read again.
            (None, _, _) => String::new(),
        };
        let bar = progress_bar(path, &name, more.len());
        let saying = bar.clone();
        let client = self.retry.apply(self.client.clone(), move |text| saying.suspend(|| eprintln!("{text}")));
        let open = |id: String| client.ingest_articles(IngestOptions::stream(id));
        let (mut ingest, mut outcomes) = match open(derived.clone()).await {
            Err(error) if error.reason == "STREAM_FINISHED" && stream.is_none() => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
                open(format!("{derived}-{now}")).await?
            }
            opened => opened?,
        };
        let files_read = Arc::new(AtomicU64::new(0));
        let position = if more.is_empty() { reader.progress() } else { Arc::clone(&files_read) };
        let (chunks, mut read) = mpsc::channel(4);
        let more = more.to_owned();
        let reading = tokio::task::spawn_blocking(move || read_chunks(reader, more, &files_read, &chunks));
        let (stored, before) = (ingest.next_item(), ingest.counts_before());
        if stored > 0 {
            let but = if before.rejected > 0 { format!(", but for {} that were rejected", before.rejected) } else { String::new() };
            bar.suspend(|| eprintln!("dateline: {name}: going on after {stored} articles that an earlier run stored{but}"));
        }
        let run = RefCell::new(&mut *self);
        let sent = RefCell::new(VecDeque::new());
        let give = async {
            let mut item = 0;
            while let Some(chunk) = read.recv().await {
                run.borrow_mut().found(&chunk, &bar);
                bar.set_position(position.load(Ordering::Relaxed));
                for (location, article) in chunk.articles {
                    if item >= stored {
                        sent.borrow_mut().push_back(location);
                        ingest.push(article).await?;
                    }
                    item += 1;
                }
            }
            ingest.finish().await
        };
        // Taken at the same time: outcomes make room for further articles.
        let take = async {
            let mut explained = 0;
            while let Some(outcome) = outcomes.next().await? {
                let location = sent.borrow_mut().pop_front();
                explained += i64::from(outcome.error.is_some());
                run.borrow_mut().outcome(outcome, location, format, &bar);
            }
            Ok(explained)
        };
        let (committed, explained) = tokio::try_join!(give, take)?;
        reading.await.map_err(|error| CommandError::Failed(error.to_string()))?;
        let counts = difference(committed.counts.unwrap_or_default(), before);
        self.counts = sum(self.counts, counts);
        self.before = sum(self.before, before);
        for _ in explained..counts.rejected {
            self.problem(
                Some(&bar),
                &format!("{name}: an article was rejected, and the connection broke before the server said which and why"),
            );
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Takes in what the reading thread found besides articles.
    fn found(&mut self, chunk: &Chunk, bar: &ProgressBar) {
        self.malformed += chunk.malformed;
        self.unreadable += chunk.unreadable;
        chunk.problems.iter().for_each(|problem| self.problem(Some(bar), problem));
    }

    fn outcome(&mut self, outcome: v1::ItemOutcome, location: Option<Location>, format: Format, bar: &ProgressBar) {
        if let (Some(location), Some(error)) = (location, outcome.error) {
            let place = error.fields.first().map_or(location.clone(), |field| location.of_field(format, &field.field));
            self.problem(Some(bar), &format!("{place}: {}: {}", error.reason, error.message));
        }
        self.told += 1;
        bar.set_message(format!("{} articles, {:.0}/s", self.told, self.told as f64 / self.started.elapsed().as_secs_f64()));
    }

    fn problem(&mut self, bar: Option<&ProgressBar>, problem: &str) {
        self.problems += 1;
        let print = || match self.problems {
            1..=PRINTED_PROBLEMS => eprintln!("dateline: {problem}"),
            101 => eprintln!("dateline: more problems follow; they are only counted"),
            _ => {}
        };
        bar.map_or_else(print, |bar| bar.suspend(print));
    }

    fn report(&self, json: bool) -> Result<(), CommandError> {
        let v1::OutcomeCounts { created, updated, unchanged, rejected, .. } = self.counts;
        let (total, before) = (total(self.counts), total(self.before));
        let seconds = self.started.elapsed().as_secs_f64();
        let mut out = std::io::stdout().lock();
        if json {
            let object = json!({
                "articles": total, "created": created, "updated": updated, "unchanged": unchanged, "rejected": rejected,
                "malformed": self.malformed, "unreadable": self.unreadable, "seconds": seconds,
                "stored_before": before, "before": {
                    "created": self.before.created, "updated": self.before.updated,
                    "unchanged": self.before.unchanged, "rejected": self.before.rejected,
                },
            });
            writeln!(out, "{object}")?;
            return Ok(());
        }
        let rate = total as f64 / seconds;
        let malformed = self.malformed;
        writeln!(
            out,
            "{total} articles: {created} created, {updated} updated, {unchanged} unchanged, {rejected} rejected, {malformed} malformed in {seconds:.1} s ({rate:.0}/s)"
        )?;
        Ok(())
    }
}

fn total(counts: v1::OutcomeCounts) -> i64 {
    counts.created + counts.updated + counts.unchanged + counts.rejected + counts.deleted
}

fn sum(one: v1::OutcomeCounts, other: v1::OutcomeCounts) -> v1::OutcomeCounts {
    v1::OutcomeCounts {
        created: one.created + other.created,
        updated: one.updated + other.updated,
        unchanged: one.unchanged + other.unchanged,
        rejected: one.rejected + other.rejected,
        deleted: one.deleted + other.deleted,
    }
}

fn difference(all: v1::OutcomeCounts, before: v1::OutcomeCounts) -> v1::OutcomeCounts {
    v1::OutcomeCounts {
        created: all.created - before.created,
        updated: all.updated - before.updated,
        unchanged: all.unchanged - before.unchanged,
        rejected: all.rejected - before.rejected,
        deleted: all.deleted - before.deleted,
    }
}

/// Whether a file holds seed text, as its name says.
fn is_seed(path: &Path) -> bool {
    path.file_name().and_then(|name| Format::of_name(&name.to_string_lossy())) == Some(Format::Seed)
}

/// Reads one file after the other to its end and hands over what it finds in chunks; stops where nobody takes them any more.
fn read_chunks(reader: ArticleReader, files: Vec<PathBuf>, files_read: &AtomicU64, chunks: &mpsc::Sender<Chunk>) {
    let opened = files.iter().map(|path| ArticleReader::open(path));
    let mut readers = std::iter::once(Ok(reader)).chain(opened).inspect(|_| _ = files_read.fetch_add(1, Ordering::Relaxed));
    let mut articles = None;
    let mut next = || loop {
        match &mut articles {
            None => match readers.next()? {
                Ok(reader) => articles = Some(reader),
                Err(error) => return Some((Err(error), true)),
            },
            Some(reader) => match reader.next() {
                Some(found) => return Some((found, false)),
                None => articles = None,
            },
        }
    };
    let mut more = true;
    while more {
        let mut chunk = Chunk { articles: Vec::new(), problems: Vec::new(), malformed: 0, unreadable: 0 };
        let mut bytes = 0;
        while more && chunk.articles.len() < CHUNK_ARTICLES && bytes < CHUNK_BYTES && chunk.problems.len() < CHUNK_ARTICLES {
            match next() {
                None => more = false,
                Some((Ok(found), _)) => {
                    let draft = &found.draft;
                    bytes += draft.title.len() + draft.lead.len() + draft.body.len() + draft.url.len();
                    chunk.articles.push((found.location, to_wire(found.draft)));
                }
                Some((Err(error), unopened)) => {
                    *if unopened || error.is_fatal() { &mut chunk.unreadable } else { &mut chunk.malformed } += 1;
                    chunk.problems.push(error.to_string());
                }
            }
        }
        if chunks.blocking_send(chunk).is_err() {
            return;
        }
    }
}

/// The same for the same file, another once it has changed.
fn stream_name(path: &Path) -> std::io::Result<String> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let mut hasher = Sha256::new();
    hasher.update(fs::canonicalize(path)?.as_os_str().as_encoded_bytes());
    hasher.update([0]);
    hasher.update(metadata.len().to_be_bytes());
    hasher.update(modified.to_be_bytes());
    let digest = hasher.finalize();
    Ok(format!("file-{}", digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// Counts the bytes of a file, or where there are more the files.
fn progress_bar(path: &Path, name: &str, more: usize) -> ProgressBar {
    let total = if more > 0 { Some(more as u64 + 1) } else { fs::metadata(path).map(|file| file.len()).ok() };
    let name = if more > 0 { format!("{} files", more + 1) } else { name.to_owned() };
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{prefix} {wide_bar} {percent:>3} %  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {msg}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_prefix(name)
}
