//! Damaged files: single bytes changed, files cut off or removed, in a store that was closed and in one that was killed.
//!
//! The daemon refuses to open with a clear message, or every answer is exact or DATA_LOSS. It never answers wrong or short while
//! it says that it is healthy, and it never hangs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::articles::{Texts, article, places};
use super::daemon::Launch;
use super::failures::Failures;
use super::image::{Damage, DamageKind, Image};
use super::judge::{Expected, Verdict, judge};
use super::load::{answer, fresh_number};
use super::plan::Plan;
use super::scratch::Scratch;

const KEYS: usize = 400;
/// Of those, so many are written at last before the kill, and so only in the journal.
const LATE: usize = 60;
/// Daemons at once: starting one is mostly waiting.
const AT_ONCE: usize = 3;

pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("damage");
    let scratch = Scratch::new(&plan)?;
    let mut figures = Vec::new();
    let mut failures = Failures::default();
    for killed in [false, true] {
        let name = if killed { "killed" } else { "closed" };
        let data = scratch.path().join(name);
        let expected = Arc::new(store(&data, killed, &mut chance).await?);
        let image = Arc::new(Image::read(&data).map_err(|error| format!("cannot read {}: {error}", data.display()))?);
        let mut damages = sweep(&image, plan.number(40, 1, 1));
        damages.extend(sample(&image, plan.number(8, 256, 2048), &mut chance));
        image.write(&scratch.path().join("copy"), None).map_err(|error| format!("cannot copy {}: {error}", data.display()))?;
        let undamaged = judge(&Launch::on(&scratch.path().join("copy")), &expected).await?;
        if undamaged != Verdict::Exact {
            return Err(format!("the {name} store is {undamaged:?} though nothing is damaged"));
        }
        let number = damages.len();
        let mut verdicts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (damage, verdict) in all(&scratch, &image, &expected, damages).await? {
            match verdict {
                Ok(verdict) => *verdicts.entry(verdict.name()).or_default() += 1,
                Err(error) => {
                    *verdicts.entry("WRONG").or_default() += 1;
                    failures.add(name, &format!("{}: {error}", image.describe(&damage)), &error);
                }
            }
        }
        figures.push(format!("{name} store, {number} damages: {verdicts:?}"));
    }
    failures.report(figures.join("; ")).map_err(|error| scratch.explain(&error))
}

/// Makes a store of which everything is known, and closes or kills its daemon.
async fn store(data: &Path, killed: bool, chance: &mut fastrand::Rng) -> Result<Expected, String> {
    let places = places(KEYS);
    let mut daemon = Launch::on(data).must_listen().await?;
    let mut client = daemon.connect().await?;
    let steps: [(&[_], Texts); 4] = [
        (&places[..KEYS - LATE], Texts::Small),
        // Some are overwritten, some are large enough to be stored in several pieces.
        (&places[50..80], Texts::Small),
        (&places[100..104], Texts::Heavy),
        (&places[KEYS - LATE..], Texts::Small),
    ];
    for (number, (places, texts)) in steps.into_iter().enumerate() {
        if number == 3 && killed {
            // Closing makes a checkpoint, so what comes now is in the journal alone.
            daemon.stop().await?;
            daemon = Launch::on(data).must_listen().await?;
            client = daemon.connect().await?;
        }
        let articles = places.iter().map(|place| article(place, fresh_number(), texts, chance)).collect();
        answer(client.batch_ingest_articles(articles)).await?.map_err(|error| error.to_string())?;
    }
    let gone = &places[120..130];
    for place in gone {
        let request = dateline::client::v1::DeleteArticleRequest { key: Some(place.key()), ..Default::default() };
        answer(client.delete_article(request)).await?.map_err(|error| error.to_string())?;
    }
    let expected = Expected::of(&client, places).await?;
    if killed {
        daemon.kill().await?
    } else {
        daemon.stop().await?
    }
    Ok(expected)
}

/// Every byte of what is small, and of what stands at the beginning of the rest; every `step`-th of them.
fn sweep(image: &Image, step: usize) -> Vec<Damage> {
    let mut damages = Vec::new();
    for (file, (path, bytes)) in image.files.iter().enumerate() {
        if bytes.is_empty() {
            continue;
        }
        let in_journal = path.starts_with("journal");
        let swept: Vec<usize> = match bytes.len() {
            // The header's fields and its checksum, and the head of the first frame.
            _ if in_journal => (0..40).chain(4088..4096 + 32).filter(|at| *at < bytes.len()).collect(),
            ..=512 => (0..bytes.len()).collect(),
            _ => (0..64).collect(),
        };
        let flip = |at: &usize| Damage { file, kind: DamageKind::Flip { at: *at, mask: 1 << (at % 8) } };
        damages.extend(swept.iter().map(flip));
        let cut_off = [0, bytes.len() / 2, bytes.len() - 1].map(|at| Damage { file, kind: DamageKind::CutOff { at } });
        damages.extend(cut_off.into_iter().chain([Damage { file, kind: DamageKind::Removed }]));
    }
    damages.into_iter().step_by(step).collect()
}

/// Damage anywhere: all files are equally likely, and within a file mostly what is not zero.
fn sample(image: &Image, count: usize, chance: &mut fastrand::Rng) -> Vec<Damage> {
    let files: Vec<usize> = (0..image.files.len()).filter(|file| image.files[*file].1.len() > 512).collect();
    let damage = |_| {
        let file = files[chance.usize(..files.len())];
        let bytes = &image.files[file].1;
        let mut at = chance.usize(..bytes.len());
        if chance.u8(..8) > 0 {
            let used = |at: &usize| bytes[*at] != 0;
            at = (at..bytes.len()).chain(0..at).find(used).unwrap_or(at);
        }
        let kind = if chance.u8(..5) == 0 { DamageKind::CutOff { at } } else { DamageKind::Flip { at, mask: chance.u8(1..) } };
        Damage { file, kind }
    };
    if files.is_empty() { Vec::new() } else { (0..count).map(damage).collect() }
}

type Judged = (Damage, Result<Verdict, String>);

/// Tries each damage on a copy of its own.
async fn all(scratch: &Scratch, image: &Arc<Image>, expected: &Arc<Expected>, damages: Vec<Damage>) -> Result<Vec<Judged>, String> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (number, damage) in damages.into_iter().enumerate() {
        let (places, image, expected) = (Arc::clone(&places), Arc::clone(image), Arc::clone(expected));
        let folder = scratch.path().join(format!("copy-{number}"));
        running.spawn(async move {
            let _place = places.acquire().await;
            let written = tokio::task::block_in_place(|| image.write(&folder.join("data"), Some(&damage)));
            let verdict = match written {
                Ok(()) => judge(&Launch::on(&folder.join("data")), &expected).await,
                Err(error) => Err(format!("cannot write {}: {error}", folder.display())),
            };
            drop(std::fs::remove_dir_all(&folder));
            (damage, verdict)
        });
    }
    let mut judged = Vec::new();
    while let Some(done) = running.join_next().await {
        judged.push(done.map_err(|error| format!("a check broke: {error}"))?);
    }
    Ok(judged)
}
