//! What compression makes of real articles, and what it costs: a dictionary is trained on one half of them, as the store does it, and
//! measured on the other.

use std::collections::BTreeMap;
use std::path::Path;

use dateline::article::{Article, ArticleKey, Limits};
use dateline::formats::{ArticleReader, ReadError, article_files};
use dateline::storage::compression::learning::Learner;
use dateline::storage::compression::{Compression, Dictionary, Encoded, Levels, Method};
use dateline::storage::record::encode_content;

use crate::Fallible;

/// zstd's levels that are measured without and with a dictionary, beside LZ4 with one.
const PLAIN: [i32; 5] = [1, 3, 6, 9, 12];
const WITH_DICTIONARY: [i32; 6] = [1, 3, 6, 9, 12, 19];
/// How often everything is done; the fastest counts.
const ROUNDS: usize = 3;

/// Measures, and prints a table for each way of taking halves.
///
/// # Errors
/// Where the articles cannot be read, are too few to learn from, or do not come back.
pub fn measure(path: &Path) -> Fallible<()> {
    let contents = read(path)?;
    println!("{} articles, in the order of their dates and URLs\n", contents.len());
    let (even, odd) = contents.iter().enumerate().partition::<Vec<_>, _>(|(number, _)| number % 2 == 0);
    let plain = |half: Vec<(usize, &Vec<u8>)>| half.into_iter().map(|(_, content)| content.clone()).collect::<Vec<_>>();
    halves("every other article", &plain(even), &plain(odd))?;
    let (earlier, later) = contents.split_at(contents.len() / 2);
    halves("the earlier half of the dates, measured on the later", earlier, later)
}

/// The contents of all valid articles, each key once.
fn read(path: &Path) -> Fallible<Vec<Vec<u8>>> {
    let mut articles: BTreeMap<ArticleKey, Article> = BTreeMap::new();
    for file in article_files(path)? {
        for read in ArticleReader::open(&file)? {
            match read {
                Ok(read) => {
                    if let Ok(article) = read.draft.validate(&Limits::default()) {
                        articles.insert(article.key().clone(), article);
                    }
                }
                Err(error) if ReadError::is_fatal(&error) => return Err(error.into()),
                Err(_) => {}
            }
        }
    }
    Ok(articles.values().map(encode_content).collect())
}

fn halves(which: &str, training: &[Vec<u8>], measured: &[Vec<u8>]) -> Fallible<()> {
    let mut learner = Learner::default();
    training.iter().for_each(|content| learner.offer(content));
    let begun = std::time::Instant::now();
    let dictionary = learner.learn(training.len() as u64, &Compression::default()).ok_or("there are too few articles to learn from")?;
    let bytes = measured.iter().map(Vec::len).sum::<usize>();
    println!(
        "Trained on {which}: {} bytes from {} articles in {:.2} s",
        dictionary.content.len(),
        dictionary.samples,
        begun.elapsed().as_secs_f64()
    );
    println!("Measured on {} articles of {} bytes in the mean\n", measured.len(), bytes / measured.len());
    println!("| dictionary | how | ratio | µs to encode | µs to decode |\n| --- | --- | --- | --- | --- |");
    PLAIN.iter().try_for_each(|level| row("none", measured, Method::Zstd(*level), None))?;
    let name = format!("{} KiB", dictionary.content.len() >> 10);
    let methods = std::iter::once(Method::Lz4).chain(WITH_DICTIONARY.map(Method::Zstd));
    methods.into_iter().try_for_each(|method| row(&name, measured, method, Some(&dictionary)))?;
    println!();
    Ok(())
}

fn row(name: &str, measured: &[Vec<u8>], method: Method, dictionary: Option<&Dictionary>) -> Fallible<()> {
    let (mut ratio, mut encoding, mut decoding) = (0.0, f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let plain = if let Method::Zstd(level) = method { level } else { Levels::ARRIVING.plain };
        let compression = Compression::new(Levels { plain, dictionary: method, ..Levels::ARRIVING });
        compression.add(dictionary.cloned().into_iter().collect());
        for content in measured {
            if let Some(Encoded { codec, dictionary, payload }) = compression.encode(content)
                && !compression.decode(codec, dictionary, &payload, content.len() as u32, |decoded| Ok(decoded == content))?
            {
                return Err("a content does not come back".into());
            }
        }
        let stats = compression.stats();
        ratio = stats.encoded.content_bytes as f64 / stats.encoded.payload_bytes as f64;
        let mean = |cost: dateline::storage::compression::CodecCost| cost.time.as_secs_f64() * 1e6 / cost.articles as f64;
        (encoding, decoding) = (encoding.min(mean(stats.encoded)), decoding.min(mean(stats.decoded)));
    }
    let how = match method {
        Method::Lz4 => "LZ4".to_owned(),
        Method::Zstd(level) => format!("zstd {level}"),
    };
    println!("| {name} | {how} | {ratio:.2} | {encoding:.1} | {decoding:.1} |");
    Ok(())
}
