//! The command line: one file a command.

mod backup;
mod compact;
mod count;
mod export;
mod get;
mod ingest;
mod list;
mod mirror;
mod output;
mod restore;
mod revisions;
mod serve;
mod status;
mod verify;
mod watch;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, ClientError, Reconnect, v1};
use crate::storage::StoreError;

/// Keeps news articles by publication date and URL, and serves them over gRPC.
#[derive(Debug, Parser)]
#[command(
    name = "dateline",
    version,
    about,
    long_about = "Dateline keeps news articles by publication date and URL, and serves them over gRPC.\n\n\
        `dateline serve` runs the store; `restore`, `compact` and `verify --data` work on a data folder that no daemon has open; \
        every other command is a client of a running one.",
    after_help = "EXAMPLES:\n  \
        dateline serve --import seeds\n  \
        dateline ingest articles.ndjson.gz\n  \
        dateline get 2026-02-23 https://example.com/a\n  \
        dateline list --from 2026-02-01 --to 2026-02-28 --domain example.com\n  \
        dateline count --by day\n  \
        dateline export --format ndjson --output all.ndjson.zst\n  \
        dateline mirror --from http://10.0.0.1:50051 --to http://127.0.0.1:50051\n  \
        dateline backup store.backup\n  \
        dateline restore store.backup --data restored\n\n\
        EXIT STATUS: 0 done, 1 failed, 2 bad usage."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Ingest(ingest::IngestArgs),
    Get(get::GetArgs),
    Revisions(revisions::RevisionsArgs),
    List(list::ListArgs),
    Count(count::CountArgs),
    Export(export::ExportArgs),
    Watch(watch::WatchArgs),
    Mirror(mirror::MirrorArgs),
    Status(status::StatusArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Verify(verify::VerifyArgs),
    Compact(compact::CompactArgs),
}

impl Cli {
    /// Whether the command is the daemon.
    pub fn is_daemon(&self) -> bool {
        matches!(self.command, Command::Serve(_))
    }
}

/// Runs the command.
///
/// # Errors
/// Where it failed, with what to do about it.
pub async fn run(cli: Cli) -> Result<(), CommandError> {
    let result = match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Ingest(args) => ingest::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Revisions(args) => revisions::run(args).await,
        Command::List(args) => list::run(args).await,
        Command::Count(args) => count::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Mirror(args) => mirror::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Backup(args) => backup::run(args).await,
        Command::Restore(args) => restore::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Compact(args) => compact::run(args).await,
    };
    match result {
        // Whoever read the output has seen enough.
        Err(CommandError::OutputClosed) => Ok(()),
        result => result,
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum CommandError {
    /// It was asked for something that makes no sense.
    Usage(String),
    /// It failed.
    Failed(String),
    /// Nobody reads the output any more.
    OutputClosed,
}

impl CommandError {
    /// The exit status: 1 failed, 2 bad usage.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            Self::OutputClosed => 0,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::OutputClosed => f.write_str("the output was closed"),
        }
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::OutputClosed } else { Self::Failed(error.to_string()) }
    }
}

/// Which server to ask.
#[derive(Debug, Args)]
struct ServerArgs {
    /// The server's address
    #[arg(long, env = "DATELINE_SERVER", value_name = "ADDR", default_value = "http://127.0.0.1:50051")]
    server: String,
}

impl ServerArgs {
    async fn connect(&self) -> Result<Client, CommandError> {
        Ok(Client::connect(&self.server).await?)
    }
}

/// How long to try again.
#[derive(Debug, Args)]
struct RetryArgs {
    /// How long to try to go on, without any progress, where the connection breaks or the server is started anew
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    retry_for: u64,
}

impl RetryArgs {
    /// Calls of the client come back for so long, and `say` is told when they have to.
    fn apply(&self, client: Client, say: impl Fn(&str) + Send + Sync + 'static) -> Client {
        let notice = move |error: &ClientError| say(&format!("dateline: interrupted, and trying again: {error}"));
        let give_up_after = Duration::from_secs(self.retry_for);
        client.with_reconnect(Reconnect { give_up_after, notice: Some(Arc::new(notice)), ..Reconnect::default() })
    }
}

/// Checks that a data folder holds something: opening one that does not would make it a new store.
fn holds_a_store(data: &Path) -> Result<(), CommandError> {
    let holds_something = fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something {
        Ok(())
    } else {
        Err(CommandError::Failed(format!("{} holds no store: name its data folder with --data", data.display())))
    }
}

/// Runs what takes long and blocks, away from the threads that listen for signals.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T, CommandError> + Send + 'static) -> Result<T, CommandError> {
    tokio::task::spawn_blocking(job).await.unwrap_or_else(|error| Err(CommandError::Failed(error.to_string())))
}

/// Which articles.
#[derive(Debug, Args)]
struct FilterArgs {
    /// The first day, YYYY-MM-DD [default: from the beginning]
    #[arg(long, value_name = "DATE")]
    from: Option<String>,
    /// The last day, included [default: to the end]
    #[arg(long, value_name = "DATE")]
    to: Option<String>,
    /// Only this host
    #[arg(long, value_name = "HOST", group = "scope")]
    host: Option<String>,
    /// Only this domain, with all its subdomains
    #[arg(long, value_name = "DOMAIN", group = "scope")]
    domain: Option<String>,
    /// Only canonical URLs that begin like this
    #[arg(long, value_name = "URL", group = "scope")]
    url_prefix: Option<String>,
}

impl FilterArgs {
    fn filter(self) -> Option<v1::ArticleFilter> {
        use v1::article_filter::Scope;
        let scope = self.host.map(Scope::Host).or(self.domain.map(Scope::Domain)).or(self.url_prefix.map(Scope::UrlPrefix));
        Some(v1::ArticleFilter { start_date: self.from.unwrap_or_default(), end_date: self.to.unwrap_or_default(), scope })
    }
}
