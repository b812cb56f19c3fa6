//! `dateline revisions`: a line a revision of an article.

use std::io::{BufWriter, Write as _};

use clap::Args;

use super::output::{article_json, one_line};
use super::{CommandError, ServerArgs};
use crate::article::Timestamp;
use crate::client::v1;

/// Lists the revisions of an article, newest first.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline revisions 2026-02-23 https://example.com/a\n  dateline get 2026-02-23 https://example.com/a --revision 1"
)]
pub struct RevisionsArgs {
    /// The publication date
    date: String,
    /// The URL: any spelling that has the same canonical form
    url: String,
    /// Print JSON objects, one a line
    #[arg(long)]
    json: bool,
    /// The fields to print, with --json [default: all but lead and body]
    #[arg(long, value_delimiter = ',', value_name = "NAME", requires = "json")]
    fields: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: RevisionsArgs) -> Result<(), CommandError> {
    let columns = ["date", "url", "title", "canonical_url", "digest", "etag", "revision", "create_time", "update_time"];
    let paths = if args.fields.is_empty() { columns.map(String::from).to_vec() } else { args.fields };
    let client = args.server.connect().await?;
    let key = Some(v1::ArticleKey { date: args.date, url: args.url });
    let mut request = v1::ListArticleRevisionsRequest { key, read_mask: Some(v1::read_mask(paths)), ..Default::default() };
    let mut out = BufWriter::new(std::io::stdout().lock());
    loop {
        let page = client.list_article_revisions(request.clone()).await?;
        for article in page.revisions {
            if args.json {
                writeln!(out, "{}", article_json(&article))?;
            } else {
                let time = article.update_time.and_then(|time| Timestamp::from_parts(time.seconds, time.nanos).ok());
                let time = time.map(|time| time.to_string()).unwrap_or_default();
                writeln!(out, "{:>6}  {time:<27}  {}", article.revision, one_line(&article.title))?;
            }
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    out.flush()?;
    Ok(())
}
