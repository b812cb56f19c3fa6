//! `dateline get`: one article.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;

use super::output::{article_json, plain};
use super::{CommandError, ServerArgs};
use crate::article::Timestamp;
use crate::client::time_to_wire;
use crate::client::v1::{
    self,
    get_article_request::{Target, Version},
};

/// Prints one article: by date and URL, or by URL alone (the latest date).
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline get 2026-02-23 https://example.com/a\n  dateline get https://example.com/a --json\n  dateline get 2026-02-23 https://example.com/a --revision 1\n  dateline get 2026-02-23 https://example.com/a --as-of 2026-02-24T12:00:00Z"
)]
pub struct GetArgs {
    /// [DATE] URL: any spelling that has the same canonical form
    #[arg(num_args = 1..=2, required = true, value_names = ["DATE", "URL"])]
    target: Vec<String>,
    /// In this revision [default: the latest]
    #[arg(long, value_name = "N", group = "version")]
    revision: Option<i64>,
    /// As it was then: an RFC 3339 time, such as 2026-02-24T12:00:00Z
    #[arg(long, value_name = "TIME", group = "version", value_parser = parse_time)]
    as_of: Option<Timestamp>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: GetArgs) -> Result<(), CommandError> {
    let target = match args.target.as_slice() {
        [url] => Target::Url(url.clone()),
        [date, url] => Target::Key(v1::ArticleKey { date: date.clone(), url: url.clone() }),
        _ => return Err(CommandError::Usage("give a date and a URL, or a URL alone".into())),
    };
    let version = args.revision.map(Version::Revision).or_else(|| args.as_of.map(|time| Version::AsOf(time_to_wire(time))));
    let client = args.server.connect().await?;
    let article = client.get_article(v1::GetArticleRequest { target: Some(target), version, read_mask: None }).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", article_json(&article))?;
        return Ok(());
    }
    let show = |text: &str| if std::io::stdout().is_terminal() { plain(text) } else { text.to_owned() };
    writeln!(out, "{}", show(&article.title))?;
    writeln!(out, "{} · {} · revision {}", article.date, article.canonical_url, article.revision)?;
    for text in [&article.lead, &article.body] {
        if !text.is_empty() {
            writeln!(out, "\n{}", show(text))?;
        }
    }
    Ok(())
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error: crate::article::TimestampError| error.to_string())
}
