//! `dateline export`: articles into files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{CommandError, FilterArgs, RetryArgs, ServerArgs};
use crate::article::ArticleDraft;
use crate::client::{Scan, from_wire, v1};
use crate::formats::{Format, seed_file_name, seed_text, write_ndjson};

/// Writes articles to standard output, to a file, or to a folder. Comes back by itself where the connection breaks.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline export > all.ndjson\n  dateline export --output all.ndjson.zst --from 2026-02-01\n  dateline export --format seed --output articles/"
)]
pub struct ExportArgs {
    /// ndjson: a JSON object a line; seed: one text file an article (without metadata)
    #[arg(long, default_value = "ndjson", value_name = "FORMAT")]
    format: Format,
    /// The file to write (compressed where its name ends in .gz or .zst), or with --format seed the folder [default: standard output]
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    retry: RetryArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: ExportArgs) -> Result<(), CommandError> {
    if args.format == Format::Seed && args.output.is_none() {
        return Err(CommandError::Usage("seed text is one file an article: name a folder with --output".into()));
    }
    let request = v1::StreamArticlesRequest { filter: args.filter.filter(), ..v1::StreamArticlesRequest::default() };
    let client = args.retry.apply(args.server.connect().await?, |text| eprintln!("{text}"));
    let mut articles = client.scan(request).await?;
    match (args.format, args.output) {
        (Format::Seed, Some(folder)) => export_seeds(&mut articles, &folder).await,
        (_, None) => {
            let mut out = BufWriter::with_capacity(1 << 18, std::io::stdout());
            export_lines(&mut articles, &mut out).await?;
            Ok(out.flush()?)
        }
        (Format::Ndjson, Some(path)) => export_file(&mut articles, &path).await,
    }
}

async fn export_lines(articles: &mut Scan, out: &mut impl Write) -> Result<(), CommandError> {
    while let Some(article) = articles.next().await? {
        write_ndjson(out, &draft(article)?)?;
    }
    Ok(())
}

/// The file appears under its name when it is whole.
async fn export_file(articles: &mut Scan, path: &Path) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| CommandError::Failed(format!("cannot write {}: {error}", path.display()));
    let part = PathBuf::from(format!("{}.part", path.display()));
    let mut file = BufWriter::with_capacity(1 << 18, File::create(&part).map_err(failed)?);
    let name = path.to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".zst") {
        let mut out = zstd::stream::Encoder::new(&mut file, 3).map_err(failed)?;
        export_lines(articles, &mut out).await?;
        out.finish().map_err(failed)?;
    } else if name.ends_with(".gz") {
        let mut out = flate2::write::GzEncoder::new(&mut file, flate2::Compression::default());
        export_lines(articles, &mut out).await?;
        out.finish().map_err(failed)?;
    } else {
        export_lines(articles, &mut file).await?;
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(&part, path).map_err(failed)
}

async fn export_seeds(articles: &mut Scan, folder: &Path) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| CommandError::Failed(format!("cannot write to {}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    let (mut written, mut refused) = (0u64, 0u64);
    while let Some(article) = articles.next().await? {
        let draft = draft(article)?;
        let name = seed_file_name(&draft.date, &draft.url);
        match seed_text(&draft) {
            Ok(text) => {
                let part = folder.join(format!(".{name}.part"));
                fs::write(&part, text).and_then(|()| fs::rename(&part, folder.join(&name))).map_err(failed)?;
                written += 1;
            }
            Err(error) => {
                eprintln!("dateline: {error}");
                refused += 1;
            }
        }
    }
    if refused > 0 {
        return Err(CommandError::Failed(format!(
            "{written} articles were written; {refused} do not fit the seed format: export them as ndjson"
        )));
    }
    Ok(())
}

fn draft(article: v1::Article) -> Result<ArticleDraft, CommandError> {
    let name = format!("{} {}", article.date, article.url);
    from_wire(article).map_err(|_| CommandError::Failed(format!("the server sent an article with an impossible time: {name}")))
}
