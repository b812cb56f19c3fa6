//! Giving space back: the store moves what is left in a segment of its journal, and removes the file.
//!
//! Whenever a crash comes meanwhile, everything is there. What triggers it is a checkpoint, and what triggers that is idleness.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dateline::storage::sled::SledStore;
use dateline::storage::{ArticleStore as _, History, StoreOptions};

use super::agreement;
use super::image::Image;
use super::operation::{Batch, Condition, Operation, Place, PlannedWrite, places};
use super::run::Run;

/// Far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn put(place: Place, text: usize) -> PlannedWrite {
    PlannedWrite::Put { place, spelling: 0, text, condition: Condition::Nothing }
}

fn delete(place: Place) -> PlannedWrite {
    PlannedWrite::Delete { place, condition: Condition::Nothing }
}

fn batch(writes: impl IntoIterator<Item = PlannedWrite>) -> Operation {
    Operation::Write(Batch { writes: writes.into_iter().collect(), stream: None })
}

/// The files of the journal but for the one that is being written.
fn complete_segments(folder: &Path) -> Vec<PathBuf> {
    let paths = folder.join("journal").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.file_name().unwrap() != "spare.log").collect();
    paths.sort();
    paths.pop();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_space_back_loses_nothing() {
    let mut run = Run::begin(History::All);
    let mut number = 0..;
    let mut next = || number.next().unwrap();
    run.carry_out(next(), batch(places().map(|place| put(place, 3)))).await;
    // Some have an earlier revision, which has to move too; most are deleted.
    run.carry_out(next(), batch(places().take(4).map(|place| put(place, 4)))).await;
    run.carry_out(next(), batch(places().skip(8).map(delete))).await;
    // Each start of the store leaves a small segment: there have to be some before they are made one.
    for text in 0..4 {
        run.carry_out(next(), Operation::Restart).await;
        run.carry_out(next(), batch(places().skip(4).take(1).map(|place| put(place, text)))).await;
    }
    run.carry_out(next(), Operation::Restart).await;
    let segments = complete_segments(&run.path);
    assert!(segments.len() > 4, "opening begins a new segment: {segments:?}");
    // Of others the text becomes an earlier revision now, when its segment is complete. And there must be something to make a
    // checkpoint of.
    run.carry_out(next(), batch(places().skip(6).take(2).map(|place| put(place, 1)))).await;

    let checkpoint = || fs::read(run.path.join("CHECKPOINT")).unwrap();
    let (before, begun) = (checkpoint(), Instant::now());
    let mut images = Vec::new();
    let mut disturbed = false;
    while segments.iter().any(|segment| segment.exists()) {
        assert!(begun.elapsed() < PATIENCE, "{segments:?} are still there");
        let image = Image::take(&run.path);
        if images.last().is_none_or(|(last, _)| *last != image) {
            images.push((image, run.model.clone()));
        }
        // Writes among those that move the rest: what moves is replaced and deleted meanwhile.
        if !disturbed && fs::read(run.path.join("CHECKPOINT")).unwrap() != before {
            disturbed = true;
            for place in places().take(6) {
                run.carry_out(next(), batch([put(place, 2), put(place, 1)])).await;
                images.push((Image::take(&run.path), run.model.clone()));
            }
            run.carry_out(next(), batch(places().take(2).map(delete))).await;
        }
    }
    assert!(disturbed, "a checkpoint came before the removal");
    images.push((Image::take(&run.path), run.model.clone()));
    agreement::check(run.store(), &run.model, &[]).await;

    let folder = tempfile::tempdir().unwrap();
    for (number, (image, model)) in images.iter().enumerate() {
        // What the journal holds is everything, whatever was given up: sled can be built anew from it.
        for sled_is_whole in [true, false] {
            let path = folder.path().join(format!("{number} {sled_is_whole}"));
            image.restore(&path);
            if !sled_is_whole {
                fs::write(path.join("sled/db"), "nonsense").unwrap();
            }
            let store = SledStore::open(&path, StoreOptions::default()).unwrap();
            agreement::check(&store, model, &[]).await;
            store.close().await.unwrap();
            drop(store);
            fs::remove_dir_all(&path).unwrap();
        }
    }
    run.carry_out(next(), Operation::Restart).await;
    agreement::check(run.store(), &run.model, &[]).await;
}
