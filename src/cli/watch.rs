//! `dateline watch`: changes as they are made.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::output::{article_json, one_line};
use super::{CommandError, FilterArgs, ServerArgs};
use crate::article::Timestamp;
use crate::client::v1::watch_articles_request::Start;
use crate::client::{WatchEvent, v1};

/// Prints changes as they are made, until it is stopped. Comes back by itself where the connection breaks.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline watch --domain example.com\n  dateline watch --from-beginning --token-file index.token --json --content"
)]
pub struct WatchArgs {
    /// Begin with the oldest change that is kept [default: with what comes next]
    #[arg(long, group = "start")]
    from_beginning: bool,
    /// Begin with what comes next
    #[arg(long, group = "start")]
    now: bool,
    /// Go on where this file says, and keep it up to date with what was printed; where it is missing, begin as told
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON objects, one a line
    #[arg(long)]
    json: bool,
    /// With the article as it is after the change, while that revision is kept
    #[arg(long, requires = "json")]
    content: bool,
    /// The fields of the article, with --content [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME", requires = "content")]
    fields: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: WatchArgs) -> Result<(), CommandError> {
    let saved = args.token_file.as_deref().map(read_token).transpose()?.flatten();
    let position = if args.from_beginning { v1::WatchStart::Beginning } else { v1::WatchStart::Now };
    let request = v1::WatchArticlesRequest {
        start: Some(saved.map_or(Start::Position(position.into()), Start::ResumeToken)),
        filter: args.filter.filter(),
        include_articles: args.content,
        read_mask: Some(v1::read_mask(args.fields)),
    };
    let mut watch = args.server.connect().await?.watch(request).await?;
    let mut connected = true;
    loop {
        match watch.next().await? {
            WatchEvent::Changes(message) => {
                connected = true;
                print(&mut io::stdout().lock(), &message.changes, args.json)?;
                if let Some(path) = &args.token_file {
                    write_token(path, &message.resume_token)
                        .map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", path.display())))?;
                }
            }
            WatchEvent::Interrupted(error) => {
                if connected {
                    eprintln!("dateline: interrupted, and trying again: {error}");
                }
                connected = false;
            }
        }
    }
}

/// Prints the changes of a message, and sees to it that whoever reads them has them.
fn print(out: &mut impl Write, changes: &[v1::ArticleChange], json: bool) -> io::Result<()> {
    let mut text = Vec::new();
    for change in changes {
        if json {
            writeln!(text, "{}", change_json(change))?;
        } else {
            let key = change.key.clone().unwrap_or_default();
            let (name, time, url) = (name(change), time(change), one_line(&key.url));
            writeln!(text, "{time:<27}  {name}  {}  revision {}  {url}", key.date, change.revision)?;
        }
    }
    out.write_all(&text)?;
    out.flush()
}

fn name(change: &v1::ArticleChange) -> &'static str {
    match change.r#type() {
        v1::ChangeType::Created => "created",
        v1::ChangeType::Updated => "updated",
        v1::ChangeType::Deleted => "deleted",
        v1::ChangeType::Unspecified => "unknown",
    }
}

fn time(change: &v1::ArticleChange) -> String {
    let time = change.commit_time.and_then(|time| Timestamp::from_parts(time.seconds, time.nanos).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn change_json(change: &v1::ArticleChange) -> Value {
    let key = change.key.clone().unwrap_or_default();
    let mut object = Map::new();
    object.insert("type".into(), json!(name(change)));
    object.insert("date".into(), json!(key.date));
    object.insert("url".into(), json!(key.url));
    object.insert("revision".into(), json!(change.revision));
    object.insert("digest".into(), json!(change.digest));
    object.insert("commit_time".into(), json!(time(change)));
    if let Some(article) = &change.article {
        object.insert("article".into(), article_json(article));
    }
    Value::Object(object)
}

/// The token in a file; none where the file is missing or empty.
fn read_token(path: &Path) -> Result<Option<String>, CommandError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CommandError::Failed(format!("cannot read {}: {error}", path.display()))),
    }
}

/// The file holds the token before or this one, whatever happens meanwhile.
fn write_token(path: &Path, token: &str) -> io::Result<()> {
    let part = PathBuf::from(format!("{}.part", path.display()));
    let mut file = File::create(&part)?;
    writeln!(file, "{token}")?;
    file.sync_data()?;
    fs::rename(&part, path)
}
