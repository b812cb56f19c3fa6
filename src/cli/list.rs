//! `dateline list`: a line an article.

use std::io::{BufWriter, Write as _};

use clap::Args;

use super::output::{article_json, one_line};
use super::{CommandError, FilterArgs, ServerArgs};
use crate::client::v1;

/// Lists articles in the order of their dates.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline list --from 2026-02-01 --to 2026-02-28\n  dateline list --domain example.com --limit 0 --json"
)]
pub struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// How many at most; 0 for all
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u64,
    /// Latest first
    #[arg(long)]
    descending: bool,
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
pub async fn run(args: ListArgs) -> Result<(), CommandError> {
    let columns = ["date", "url", "title", "canonical_url", "host", "revision"];
    let paths = if args.fields.is_empty() { columns.map(String::from).to_vec() } else { args.fields };
    let order = if args.descending { v1::SortOrder::Descending } else { v1::SortOrder::Ascending };
    let request = v1::StreamArticlesRequest {
        filter: args.filter.filter(),
        order: order.into(),
        read_mask: Some(v1::read_mask(paths)),
        resume_token: String::new(),
    };
    let mut articles = args.server.connect().await?.stream_articles(request).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut listed = 0;
    while args.limit == 0 || listed < args.limit {
        let Some(article) = articles.next().await? else { break };
        listed += 1;
        if args.json {
            writeln!(out, "{}", article_json(&article))?;
        } else {
            writeln!(out, "{}  {:<28}  {}  {}", article.date, article.host, one_line(&article.title), article.canonical_url)?;
        }
    }
    out.flush()?;
    Ok(())
}
