//! Files that came back older than they were, or not at all: the daemon says so, and answers nothing as if it were whole.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use super::harness::{Daemon, article, dateline};
use crate::{get, put, reason};
use dateline::client::v1;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn store(daemon: &Daemon, number: usize) {
    let stored = article("2024-05-01", &format!("https://example.com/{number}"), "T", "B");
    put(daemon, stored, None).await.unwrap();
}

/// Starts a daemon on a folder that it must refuse, and gives what it says.
fn refused(data: &Path) -> String {
    // One that is not refused says that it listens, and would go on for ever.
    let mut daemon = dateline(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    let mut daemon = daemon.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let listening = BufReader::new(daemon.stdout.take().unwrap()).lines().map_while(Result::ok).any(|line| line.contains("listening"));
    if listening {
        daemon.kill().unwrap();
    }
    let output = daemon.wait_with_output().unwrap();
    assert!(!listening, "it was not refused: {output:?}");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_older_than_the_rest_is_refused() {
    let mut daemon = Daemon::start().await;
    store(&daemon, 1).await;
    daemon.terminate();
    assert!(daemon.ended().success());
    let older = tempfile::tempdir().unwrap();
    copy(&daemon.data(), older.path());
    daemon.start_again().await;
    store(&daemon, 2).await;
    daemon.terminate();
    assert!(daemon.ended().success());
    let newer = tempfile::tempdir().unwrap();
    copy(&daemon.data(), newer.path());

    let mixed = tempfile::tempdir().unwrap();
    copy(newer.path(), mixed.path());
    std::fs::remove_dir_all(mixed.path().join("journal")).unwrap();
    copy(&older.path().join("journal"), &mixed.path().join("journal"));
    assert!(refused(mixed.path()).contains("restore a backup"));
    // It is as it was, so that whoever has the right files can put them there.
    assert!(mixed.path().join("sled/db").exists() && !mixed.path().join("sled.aside").exists());
    // Without its text there is no article, however whole the rest is.
    let without_journal = tempfile::tempdir().unwrap();
    copy(newer.path(), without_journal.path());
    std::fs::remove_dir_all(without_journal.path().join("journal")).unwrap();
    assert!(refused(without_journal.path()).contains("restore a backup"));
    // An older sled is built anew, from a journal that holds everything; so is one that is nonsense.
    std::fs::remove_dir_all(daemon.data().join("sled")).unwrap();
    copy(&older.path().join("sled"), &daemon.data().join("sled"));
    daemon.start_again().await;
    assert_eq!(daemon.stream(None, v1::SortOrder::Ascending).await.len(), 2);
    daemon.kill();
    for name in ["db", "conf"] {
        std::fs::write(daemon.data().join("sled").join(name), "nonsense").unwrap();
    }
    daemon.start_again().await;
    assert_eq!(daemon.stream(None, v1::SortOrder::Ascending).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_from_which_an_article_is_missing_is_data_loss() {
    let mut daemon = Daemon::start().await;
    for day in ["2024-05-01", "2024-05-02", "2024-05-03"] {
        for path in ["a", "b"] {
            put(&daemon, article(day, &format!("https://example.com/{path}"), "T", "B"), None).await.unwrap();
        }
    }
    daemon.terminate();
    assert!(daemon.ended().success());
    let db = sled::open(daemon.data().join("sled")).unwrap();
    let articles = db.open_tree("articles").unwrap();
    // The second day's first article, with its checksum and all.
    let (lost, _) = articles.iter().nth(2).unwrap().unwrap();
    assert!(articles.remove(lost).unwrap().is_some());
    db.flush().unwrap();
    drop((articles, db));

    daemon.start_again().await;
    for day in ["2024-05-01", "2024-05-03"] {
        assert_eq!(get(&daemon, day, "https://example.com/a").await.unwrap().title, "T");
    }
    for path in ["a", "b"] {
        assert_eq!(reason(get(&daemon, "2024-05-02", &format!("https://example.com/{path}")).await), "RECORD_DAMAGED");
    }
    let again = article("2024-05-02", "https://example.com/a", "T", "B");
    assert_eq!(reason(put(&daemon, again, None).await), "RECORD_DAMAGED");
    for order in [v1::SortOrder::Ascending, v1::SortOrder::Descending] {
        let request = v1::ListArticlesRequest { order: order.into(), ..Default::default() };
        assert_eq!(reason(daemon.client.list_articles(request).await), "RECORD_DAMAGED");
    }
    let filter = |day: &str| Some(v1::ArticleFilter { start_date: day.into(), end_date: day.into(), scope: None });
    for (day, found) in [("2024-05-01", true), ("2024-05-02", false), ("2024-05-03", true)] {
        let listed = daemon.client.list_articles(v1::ListArticlesRequest { filter: filter(day), ..Default::default() }).await;
        assert_eq!(listed.is_ok(), found, "{day}: {listed:?}");
    }
    // The journal holds what sled lost, and the next start brings it back.
    daemon.kill();
    daemon.start_again().await;
    for path in ["a", "b"] {
        assert_eq!(get(&daemon, "2024-05-02", &format!("https://example.com/{path}")).await.unwrap().title, "T");
    }
    assert!(!daemon.data().join("REBUILD").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_indexes_of_a_machine_that_stopped_are_built_anew_and_those_of_a_killed_daemon_are_not() {
    let mut daemon = Daemon::start().await;
    for path in ["a", "b"] {
        put(&daemon, article("2024-05-01", &format!("https://example.com/{path}"), "T", "B"), None).await.unwrap();
    }
    // Ending makes a checkpoint: before the first one the indexes are always built anew.
    daemon.restart().await;
    daemon.kill();
    let lose_one = |data: &Path| {
        let db = sled::open(data.join("sled")).unwrap();
        let articles = db.open_tree("articles").unwrap();
        articles.pop_min().unwrap().unwrap();
        db.flush().unwrap();
    };
    let note = daemon.data().join("RUNNING");
    let copied = tempfile::tempdir().unwrap();
    copy(&daemon.data(), copied.path());

    lose_one(&daemon.data());
    daemon.start_again().await;
    let found = get(&daemon, "2024-05-01", "https://example.com/a").await;
    if cfg!(target_os = "linux") {
        assert_eq!(reason(found), "RECORD_DAMAGED", "what the kernel still has is taken as it is");
    }
    daemon.kill();
    std::fs::remove_file(daemon.data().join("REBUILD")).unwrap();
    let of_this_boot = std::fs::read_to_string(&note).unwrap();
    std::fs::write(&note, of_this_boot.replacen("boot ", "boot 0", 1)).unwrap();
    daemon.start_again().await;
    assert_eq!(get(&daemon, "2024-05-01", "https://example.com/a").await.unwrap().title, "T");
    daemon.restart().await;
    assert_eq!(daemon.stream(None, v1::SortOrder::Ascending).await.len(), 2);

    // A copy of a folder that was in use may be of several moments.
    lose_one(copied.path());
    daemon.kill();
    std::fs::remove_dir_all(daemon.data()).unwrap();
    std::fs::rename(copied.path(), daemon.data()).unwrap();
    daemon.start_again().await;
    assert_eq!(get(&daemon, "2024-05-01", "https://example.com/a").await.unwrap().title, "T");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_text_comes_back_with_the_same_article_and_a_damaged_entry_with_the_next_start() {
    let mut daemon = Daemon::start().await;
    for path in ["a", "b"] {
        put(&daemon, article("2024-05-01", &format!("https://example.com/{path}"), "T", "B"), None).await.unwrap();
    }
    daemon.terminate();
    assert!(daemon.ended().success());
    // The first payload of the journal: it stands behind the segment's header, the frame's and a length.
    let segment = daemon.data().join("journal").read_dir().unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 44 + 1] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let db = sled::open(daemon.data().join("sled")).unwrap();
    let articles = db.open_tree("articles").unwrap();
    let (key, mut value) = articles.last().unwrap().unwrap();
    value[50] ^= 1;
    articles.insert(key, value).unwrap();
    db.flush().unwrap();
    drop((articles, db));

    daemon.start_again().await;
    // Damage of an entry makes the whole day doubtful.
    assert_eq!(reason(get(&daemon, "2024-05-01", "https://example.com/b").await), "RECORD_DAMAGED");
    daemon.kill();
    daemon.start_again().await;
    assert_eq!(get(&daemon, "2024-05-01", "https://example.com/b").await.unwrap().title, "T");
    assert_eq!(reason(get(&daemon, "2024-05-01", "https://example.com/a").await), "RECORD_DAMAGED");
    let again = put(&daemon, article("2024-05-01", "https://example.com/a", "T", "B"), None).await.unwrap();
    assert_eq!(again.outcome(), v1::Outcome::Unchanged);
    let mended = get(&daemon, "2024-05-01", "https://example.com/a").await.unwrap();
    assert_eq!((mended.title.as_str(), mended.revision), ("T", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_end_that_is_missing_is_refused_and_a_lost_checkpoint_is_not() {
    let mut daemon = Daemon::start().await;
    for number in 0..5 {
        store(&daemon, number).await;
    }
    daemon.kill();
    let killed = tempfile::tempdir().unwrap();
    copy(&daemon.data(), killed.path());
    let segment = killed.path().join("journal").read_dir().unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&segment).unwrap();
    let last = whole.iter().rposition(|byte| *byte != 0).unwrap();

    // Bytes of the last frame: it looks torn, but it was acknowledged.
    for at in [last, last - 100] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&segment, damaged).unwrap();
        assert!(refused(killed.path()).contains("restore a backup"), "{at}");
    }
    std::fs::write(&segment, &whole[..last - 50]).unwrap();
    assert!(refused(killed.path()).contains("restore a backup"));
    std::fs::remove_file(&segment).unwrap();
    assert!(refused(killed.path()).contains("restore a backup"));

    // What sled wrote before its first checkpoint may be anything after a loss of power: the journal holds everything.
    for name in ["db", "conf"] {
        std::fs::write(daemon.data().join("sled").join(name), "nonsense").unwrap();
    }
    daemon.start_again().await;
    assert_eq!(daemon.stream(None, v1::SortOrder::Ascending).await.len(), 5);
    daemon.terminate();
    assert!(daemon.ended().success());
    // The journal holds everything still, and so does sled.
    std::fs::remove_file(daemon.data().join("CHECKPOINT")).unwrap();
    daemon.start_again().await;
    assert_eq!(daemon.stream(None, v1::SortOrder::Ascending).await.len(), 5);
    assert!(!daemon.data().join("sled.aside").exists());
}
