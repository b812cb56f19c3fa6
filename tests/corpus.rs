//! Real articles: a corpus goes in through the command line and comes out as it was, byte for byte.
//!
//! The corpus is no part of this repository. It is looked for in the folder that `DATELINE_CORPUS` names, by default
//! `../shared/corpus` beside this package; where it is missing, the test is reported as ignored, with the reason.

#[path = "daemon/harness.rs"]
#[expect(dead_code, reason = "the tests of the daemon use the rest")]
mod harness;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dateline::article::{ArticleDate, ArticleKey, CanonicalUrl};
use flate2::read::MultiGzDecoder;
use harness::{Daemon, dateline};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;

/// An article as a line of NDJSON has it.
type Members = BTreeMap<String, String>;

fn main() -> ExitCode {
    let trial = Trial::ignorable_test("a_corpus_comes_back_byte_for_byte_and_changes_nothing_the_second_time", corpus);
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn corpus() -> Result<Completion, Failed> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let file = std::env::var_os("DATELINE_CORPUS").map_or_else(default, PathBuf::from).join("articles.ndjson.gz");
    if !file.is_file() {
        return Ok(Completion::ignored_with(format!("there is no {}: DATELINE_CORPUS names its folder", file.display())));
    }
    let (articles, lines) = read(&file);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut daemon = runtime.block_on(Daemon::start());

    let summary = json(&daemon, &["ingest", file.to_str().unwrap(), "--json"]);
    assert_eq!((&summary["articles"], &summary["created"]), (&lines.into(), &articles.len().into()), "{summary}");
    assert_eq!((&summary["rejected"], &summary["malformed"]), (&0.into(), &0.into()), "{summary}");
    let before = json(&daemon, &["status", "--json"]);
    let text_bytes: usize = articles.values().flat_map(|article| ["title", "lead", "body"].map(|name| article[name].len())).sum();
    assert_eq!((&before["article_count"], &before["text_bytes"]), (&articles.len().into(), &text_bytes.into()), "{before}");
    exports(&daemon, &articles);

    let summary = json(&daemon, &["ingest", file.to_str().unwrap(), "--json"]);
    if lines == articles.len() {
        assert_eq!(summary["unchanged"], lines, "{summary}");
        let after = json(&daemon, &["status", "--json"]);
        for grown in ["article_count", "earlier_revision_count", "last_sequence", "text_bytes", "record_bytes"] {
            assert_eq!(after[grown], before[grown], "{grown}");
        }
    }
    runtime.block_on(daemon.kill_and_restart());
    exports(&daemon, &articles);
    Ok(Completion::Completed)
}

/// The articles of the corpus by their keys, and how many lines it has.
fn read(file: &Path) -> (BTreeMap<ArticleKey, Members>, usize) {
    let mut articles = BTreeMap::new();
    let mut lines = 0;
    for line in BufReader::new(MultiGzDecoder::new(File::open(file).unwrap())).lines() {
        let article = members(&line.unwrap());
        articles.insert(key(&article), article);
        lines += 1;
    }
    (articles, lines)
}

/// A member that is empty is the same as none, but for those that every article has.
fn members(line: &str) -> Members {
    let mut members: Members = serde_json::from_str(line).unwrap();
    members.retain(|name, text| !text.is_empty() || ["title", "lead", "body"].contains(&name.as_str()));
    members
}

fn key(article: &Members) -> ArticleKey {
    let date: ArticleDate = article["date"].parse().unwrap();
    ArticleKey { date, url: CanonicalUrl::parse(&article["url"]).unwrap() }
}

/// Checks that everything is exported: every member of every article, in the order of the keys, and nothing else.
fn exports(daemon: &Daemon, articles: &BTreeMap<ArticleKey, Members>) {
    let output = dateline(&["export", "--server", &daemon.address]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let exported: Vec<Members> = output.stdout.lines().map(|line| members(&line.unwrap())).collect();
    let keys: Vec<ArticleKey> = exported.iter().map(key).collect();
    assert!(keys.iter().eq(articles.keys()), "{} articles came back of {}, or in another order", keys.len(), articles.len());
    for (found, (key, expected)) in exported.iter().zip(articles) {
        let names: Vec<&String> = found.keys().collect();
        assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{key}");
        for (name, text) in expected {
            assert!(found[name] == *text, "{key}: the {name} came back with {} bytes of {}", found[name].len(), text.len());
        }
    }
}

/// What a command prints as JSON. It must succeed.
fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let output = dateline(&[arguments, &["--server", &daemon.address]].concat()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
