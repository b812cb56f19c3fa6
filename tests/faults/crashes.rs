//! Crash images: what a daemon does to its files is recorded, and replayed up to random points as disks that power cuts leave. The
//! daemon is started on each, and must hold what its clients knew at that moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::articles::{Texts, places};
use super::check::{Settled, settle};
use super::daemon::Launch;
use super::failures::Failures;
use super::image::Image;
use super::load::{Load, Mix};
use super::oracle::{Oracle, Shared, lock};
use super::plan::Plan;
use super::recording::{Reader, Recorded, recording};
use super::replay::{Model, power_cut};
use super::scratch::Scratch;

const KEYS: usize = 150;
/// Daemons at once: starting one is mostly waiting.
const AT_ONCE: usize = 3;
pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("crash_images");
    let images = plan.number(6, 300, 2000);
    // One recording serves so many images.
    let images_each = plan.number(6, 150, 400);
    let (mut done, mut operations, mut acknowledged) = (0, 0, 0);
    let mut settled = Settled::default();
    let mut verdicts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut failures = Failures::default();
    while done < images {
        let scratch = Scratch::new(&plan)?;
        let recorded = Session::record(&scratch, plan.number(3, 6, 6), &mut chance).await.map_err(|error| scratch.explain(&error))?;
        operations += recorded.operations.len();
        acknowledged += recorded.acknowledged;
        let number = images_each.min(images - done);
        for Checked { name, model, result } in all(&scratch, recorded, done..done + number, &mut chance).await? {
            match result {
                Ok(found) => {
                    settled += found;
                    *verdicts.entry(model).or_default() += 1;
                }
                Err(error) => failures.add(model, &format!("{name}: {error}"), &error),
            }
        }
        done += number;
    }
    let text = format!(
        "{images} images of {operations} recorded operations, whole: {verdicts:?}, {acknowledged} writes acknowledged; of the keys with \
         writes in flight {} had one that was whole, {} none",
        settled.landed, settled.absent
    );
    failures.report(text)
}

/// What was recorded.
struct Session {
    operations: Vec<Recorded>,
    oracle: Shared,
    acknowledged: u64,
}

impl Session {
    /// Records some lives of a daemon. A third of them are stopped, with a checkpoint; the others are killed while their clients
    /// write, so that the next recovers. What a life shows its clients of the writes that were under way, a later power cut must
    /// not take back.
    async fn record(scratch: &Scratch, lives: usize, chance: &mut fastrand::Rng) -> Result<Self, String> {
        let root = scratch.path().join("recorded");
        std::fs::create_dir(&root).map_err(|error| format!("cannot create {}: {error}", root.display()))?;
        let oracle = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS))).with_log()));
        let mut session = Self { operations: Vec::new(), oracle, acknowledged: 0 };
        let mut reader = Reader::default();
        for life in 0..lives {
            let trace = scratch.path().join(format!("trace-{life}"));
            let launch = Launch::on(&root.join("data")).under(recording(&trace));
            let daemon = launch.must_listen().await?;
            let keys = if chance.bool() { KEYS } else { KEYS / 8 };
            settle(&daemon.connect().await?, &session.oracle, chance).await?;
            let load = Load::start(&daemon, &session.oracle, Mix::of(Texts::Mixed, keys), chance).await?;
            sleep(Duration::from_millis(chance.u64(150..400))).await; // ok: how much is written is drawn by lot
            let killed = chance.u8(..3) > 0;
            let counters = if killed {
                daemon.kill().await?;
                load.finish().await?
            } else {
                let counters = load.finish().await?;
                daemon.stop().await?;
                counters
            };
            session.acknowledged += counters.acknowledged();
            reader.read(&trace, &root, killed)?;
            remove_traces(scratch, &trace)?;
        }
        session.operations = reader.operations();
        let mut image = Image::read(&root).map_err(|error| format!("cannot read {}: {error}", root.display()))?;
        image.files.retain(|(path, _)| path.starts_with("data"));
        session.agrees_with(&image)?;
        Ok(session)
    }

    /// A recording that leads to what is really there has left nothing out.
    fn agrees_with(&self, image: &Image) -> Result<(), String> {
        let replayed = power_cut(&self.operations, u64::MAX, Model::Running, &mut fastrand::Rng::with_seed(0));
        let names = |image: &Image| image.files.iter().map(|(path, bytes)| (path.clone(), bytes.len())).collect::<Vec<_>>();
        if names(&replayed) != names(image) {
            return Err(format!("the recording leads to {:?}, but the folder holds {:?}", names(&replayed), names(image)));
        }
        let differs = replayed.files.iter().zip(&image.files).find(|(replayed, real)| replayed != real);
        differs.map_or(Ok(()), |((path, _), _)| Err(format!("the recording leads to other bytes of {}", path.display())))
    }

    /// A moment: between two operations, within one, or just after an acknowledgement.
    fn moment(&self, chance: &mut fastrand::Rng) -> u64 {
        let Recorded { began, ended, .. } = self.operations[chance.usize(..self.operations.len())];
        match chance.u8(..4) {
            0 => chance.u64(began..=ended),
            1 => lock(&self.oracle).moment(chance).unwrap_or(ended),
            _ => ended,
        }
    }
}

fn remove_traces(scratch: &Scratch, trace: &std::path::Path) -> Result<(), String> {
    let failed = |error| format!("cannot remove a recording: {error}");
    let prefix = trace.display().to_string();
    for entry in scratch.path().read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.display().to_string().starts_with(&prefix) {
            std::fs::remove_file(path).map_err(failed)?;
        }
    }
    Ok(())
}

/// What became of one image.
struct Checked {
    name: String,
    model: &'static str,
    result: Result<Settled, String>,
}

/// Makes images and starts a daemon on each.
async fn all(
    scratch: &Scratch,
    session: Session,
    numbers: std::ops::Range<usize>,
    chance: &mut fastrand::Rng,
) -> Result<Vec<Checked>, String> {
    let session = Arc::new(session);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for number in numbers {
        let (places, session, mut chance) = (Arc::clone(&places), Arc::clone(&session), chance.fork());
        let folder = scratch.path().join(format!("image-{number}"));
        running.spawn(async move {
            let _place = places.acquire().await;
            let model = if chance.u8(..10) < 7 { Model::Ext4 } else { Model::Posix };
            let time = session.moment(&mut chance);
            let first = session.operations.first().map_or(0, |first| first.began);
            let result = check(&session, &folder, time, model, &mut chance).await;
            let checkpoint = if folder.join("data/CHECKPOINT").exists() { "after a checkpoint" } else { "before the first checkpoint" };
            let name = format!("image {number}, {} ms after the first operation, {checkpoint}", time.saturating_sub(first) as f64 / 1e3);
            drop(std::fs::remove_dir_all(&folder));
            Checked { name, model: model.name(), result }
        });
    }
    let mut checked = Vec::new();
    while let Some(done) = running.join_next().await {
        checked.push(done.map_err(|error| format!("a check broke: {error}"))?);
    }
    Ok(checked)
}

async fn check(
    session: &Session,
    folder: &std::path::Path,
    time: u64,
    model: Model,
    chance: &mut fastrand::Rng,
) -> Result<Settled, String> {
    let written = tokio::task::block_in_place(|| {
        let image = power_cut(&session.operations, time, model, chance).of_an_earlier_boot();
        image.write(folder, None)
    });
    written.map_err(|error| format!("cannot write {}: {error}", folder.display()))?;
    let oracle: Shared = Arc::new(Mutex::new(tokio::task::block_in_place(|| lock(&session.oracle).as_of(time))?));
    let launch = Launch::on(&folder.join("data"));
    let daemon = launch.must_listen().await?;
    let settled = settle(&daemon.connect().await?, &oracle, chance).await?;
    if chance.u8(..4) > 0 {
        daemon.kill().await?;
        return Ok(settled);
    }
    // What the power cut left behind must not come up again either.
    let load = Load::start(&daemon, &oracle, Mix { readers: 0, ..Mix::of(Texts::Mixed, KEYS) }, chance).await?;
    sleep(Duration::from_millis(40)).await; // ok: how much is written does not matter
    daemon.kill().await?;
    load.finish().await?;
    let daemon = launch.must_listen().await.map_err(|error| format!("after more writes and a kill: {error}"))?;
    settle(&daemon.connect().await?, &oracle, chance).await.map_err(|error| format!("after more writes and a kill: {error}"))?;
    daemon.kill().await?;
    Ok(settled)
}
