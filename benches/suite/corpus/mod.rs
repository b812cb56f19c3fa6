//! The articles that are stored: generated ones, or those of a file.
//!
//! Articles are numbered, and any number has one: where a file ends, its articles begin anew under other URLs. The first ones are
//! loaded, and what a phase writes has numbers beyond.

mod generator;
pub mod language;

use std::collections::HashSet;
use std::path::Path;

use dateline::article::Limits;
use dateline::client::{to_wire, v1};
use dateline::formats::{ArticleReader, ReadError, article_files};

use crate::Fallible;
use generator::Generator;

/// Articles by number.
pub enum Corpus {
    /// Invented ones.
    Generated(Generator),
    /// Those of a file, each key once.
    File(Vec<v1::Article>),
}

/// What the articles are like.
pub struct Profile {
    /// Bytes of title, lead and body of an article in the mean.
    pub text_bytes: f64,
    /// How many times smaller zstd, level 1, makes one article's text in the mean.
    pub zstd_ratio: f64,
    /// Days that they are of, of those looked at.
    pub days: usize,
}

impl Corpus {
    /// Invented articles, of which so many will be loaded: the same ones for the same seed and number.
    pub fn generated(seed: u64, count: usize) -> Self {
        Self::Generated(Generator::new(seed, count))
    }

    /// The first articles of a file, or of a folder of them: all that are valid.
    ///
    /// # Errors
    /// Where it cannot be read, or holds none.
    pub fn read(path: &Path, count: usize) -> Fallible<Self> {
        let limits = Limits::default();
        let (mut articles, mut keys) = (Vec::new(), HashSet::new());
        for file in article_files(path)? {
            let mut reader = ArticleReader::open(&file)?;
            while let Some(read) = reader.next().filter(|_| articles.len() < count) {
                match read {
                    Ok(read) => {
                        if let Ok(valid) = read.draft.clone().validate(&limits)
                            && keys.insert(valid.key().clone())
                        {
                            articles.push(to_wire(read.draft));
                        }
                    }
                    Err(error) if ReadError::is_fatal(&error) => return Err(error.into()),
                    Err(_) => {}
                }
            }
        }
        if articles.is_empty() { Err(format!("{} holds no valid article", path.display()).into()) } else { Ok(Self::File(articles)) }
    }

    /// How many articles there are to load, where so many are wanted.
    pub fn count(&self, wanted: usize) -> usize {
        match self {
            Self::Generated(_) => wanted,
            Self::File(articles) => articles.len().min(wanted),
        }
    }

    /// The article of a number.
    pub fn article(&self, number: usize) -> v1::Article {
        match self {
            Self::Generated(generator) => generator.article(number),
            Self::File(articles) => {
                let mut article = articles[number % articles.len()].clone();
                article.url = nth_url(&article.url, number / articles.len());
                article
            }
        }
    }

    /// The key of an article, without making its text.
    pub fn key(&self, number: usize) -> v1::ArticleKey {
        match self {
            Self::Generated(generator) => generator.key(number),
            Self::File(articles) => {
                let article = &articles[number % articles.len()];
                v1::ArticleKey { date: article.date.clone(), url: nth_url(&article.url, number / articles.len()) }
            }
        }
    }

    /// What the first articles are like, from a sample.
    ///
    /// # Errors
    /// Where one cannot be compressed.
    pub fn profile(&self, count: usize) -> Fallible<Profile> {
        let step = (count / 500).max(1);
        let (mut bytes, mut compressed, mut looked_at) = (0, 0, 0);
        let mut days = HashSet::new();
        for number in (0..count).step_by(step) {
            let article = self.article(number);
            let text = [article.title.as_str(), &article.lead, &article.body].join("\n");
            bytes += text.len();
            compressed += zstd::bulk::compress(text.as_bytes(), 1)?.len();
            looked_at += 1;
            days.insert(article.date);
        }
        Ok(Profile { text_bytes: bytes as f64 / looked_at as f64, zstd_ratio: bytes as f64 / compressed as f64, days: days.len() })
    }
}

/// Another URL for a copy of an article. The first is the article itself.
fn nth_url(url: &str, copy: usize) -> String {
    if copy == 0 {
        return url.to_owned();
    }
    let url = url.split('#').next().unwrap_or_default();
    format!("{url}{}copy={copy}", if url.contains('?') { '&' } else { '?' })
}

/// Bytes of title, lead and body.
pub fn text_bytes(article: &v1::Article) -> usize {
    article.title.len() + article.lead.len() + article.body.len()
}
