//! Articles as people and programs read them.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::article::Timestamp;
use crate::client::v1;

/// An article as a JSON object: the fields that are set, under the names of the protocol.
pub fn article_json(article: &v1::Article) -> Value {
    let mut object = Map::new();
    let texts = [
        ("date", &article.date),
        ("url", &article.url),
        ("title", &article.title),
        ("lead", &article.lead),
        ("body", &article.body),
        ("section", &article.section),
        ("language", &article.language),
        ("publisher", &article.publisher),
        ("canonical_url", &article.canonical_url),
        ("host", &article.host),
        ("digest", &article.digest),
        ("etag", &article.etag),
    ];
    for (name, text) in texts {
        if !text.is_empty() {
            object.insert(name.into(), json!(text));
        }
    }
    let times = [
        ("publish_time", article.publish_time),
        ("modify_time", article.modify_time),
        ("crawl_time", article.crawl_time),
        ("create_time", article.create_time),
        ("update_time", article.update_time),
    ];
    for (name, time) in times {
        if let Some(Ok(time)) = time.map(|time| Timestamp::from_parts(time.seconds, time.nanos)) {
            object.insert(name.into(), json!(time.to_string()));
        }
    }
    for (name, list) in [("authors", &article.authors), ("keywords", &article.keywords)] {
        if !list.is_empty() {
            object.insert(name.into(), json!(list));
        }
    }
    if !article.annotations.is_empty() {
        object.insert("annotations".into(), json!(article.annotations));
    }
    if article.revision != 0 {
        object.insert("revision".into(), json!(article.revision));
    }
    Value::Object(object)
}

/// A text on one line of a terminal: control characters, which could steer it, become spaces.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text for a terminal: as it is, without the control characters that could steer it.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// A progress bar on the terminal, if standard error is one: how much of so much is done.
pub fn progress_bar(name: &str, length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_prefix(name.to_owned())
}

/// A number of bytes for people.
pub fn bytes(bytes: i64) -> String {
    indicatif::HumanBytes(bytes.max(0) as u64).to_string()
}
