//! `dateline count`: how many articles, in all, by day or by host.

use std::io::{BufWriter, Write as _};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{CommandError, FilterArgs, ServerArgs};
use crate::client::v1::{self, article_count::Group};

/// Counts articles.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  dateline count\n  dateline count --by host --from 2026-02-01 --to 2026-02-28")]
pub struct CountArgs {
    /// What to count by
    #[arg(long, value_enum)]
    by: Option<By>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print JSON objects, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    /// A line a day
    Day,
    /// A line a host
    Host,
}

/// Runs the command.
pub async fn run(args: CountArgs) -> Result<(), CommandError> {
    let group = match args.by {
        None => v1::CountGroup::Unspecified,
        Some(By::Day) => v1::CountGroup::Day,
        Some(By::Host) => v1::CountGroup::Host,
    };
    let mut request =
        v1::CountArticlesRequest { filter: args.filter.filter(), group_by: group.into(), page_size: 1000, page_token: String::new() };
    let client = args.server.connect().await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    loop {
        let page = client.count_articles(request.clone()).await?;
        for counted in page.counts {
            let count = counted.article_count;
            match (args.json, counted.group) {
                (false, None) => writeln!(out, "{count}")?,
                (false, Some(Group::Date(name) | Group::Host(name))) => writeln!(out, "{count:>10}  {name}")?,
                (true, None) => writeln!(out, "{}", json!({ "article_count": count }))?,
                (true, Some(Group::Date(date))) => writeln!(out, "{}", json!({ "date": date, "article_count": count }))?,
                (true, Some(Group::Host(host))) => writeln!(out, "{}", json!({ "host": host, "article_count": count }))?,
            }
        }
        if page.next_page_token.is_empty() {
            out.flush()?;
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}
