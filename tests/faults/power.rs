//! Power cuts: a file system of the store's own is cut off from its disk under load, and mounted again.
//!
//! What the kernel had not written is lost, so this tells a sync that was made from one that was forgotten. During most loads
//! single files are synced from outside, as the kernel may at any time: then the disk holds some files new and others old.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::articles::{Texts, places};
use super::check::{Settled, settle};
use super::daemon::{Daemon, Launch};
use super::disk::{Cut, Disk};
use super::image::make_of_an_earlier_boot;
use super::load::{Load, Mix};
use super::oracle::{Oracle, Shared};
use super::plan::Plan;

/// Cuts of one file system, before the next one begins empty.
const CUTS_PER_DISK: usize = 8;
const KEYS: usize = 600;
/// So few keys are written where articles are overwritten again and again.
const CHURNED: usize = 50;
const MEBIBYTES: u64 = 1024;

#[derive(Default)]
struct Figures {
    cuts: usize,
    churning: usize,
    closing: usize,
    reopened: usize,
    acknowledged: u64,
    settled: Settled,
}

pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("power_cuts");
    let cuts = plan.number(1, 15, 60);
    let mut figures = Figures::default();
    while figures.cuts < cuts {
        // The kernel writes its own journal each second, or as by default every five.
        let options: &[&str] = if chance.bool() { &["commit=1"] } else { &[] };
        let disk = Disk::new(MEBIBYTES, options)?;
        let oracle: Shared = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))));
        let until = cuts.min(figures.cuts + CUTS_PER_DISK);
        while figures.cuts < until {
            let number = figures.cuts + 1;
            live(&disk, &oracle, &mut figures, &mut chance)
                .await
                .map_err(|error| format!("cut {number}, mounted with {options:?}: {error}"))?;
        }
        let daemon = Launch::on(&disk.path().join("data")).must_listen().await?;
        figures.settled += settle(&daemon.connect().await?, &oracle, &mut chance).await?;
        daemon.stop().await?;
    }
    let Figures { cuts, churning, closing, reopened, acknowledged, settled } = figures;
    Ok(format!(
        "{cuts} power cuts ({churning} while few articles were overwritten, {closing} while closing, {reopened} shortly after a \
         checkpoint), {acknowledged} writes acknowledged; of the keys with writes in flight {} had one that was whole, {} none",
        settled.landed, settled.absent
    ))
}

/// A life of the daemon that a power cut ends.
async fn live(disk: &Disk, oracle: &Shared, figures: &mut Figures, chance: &mut fastrand::Rng) -> Result<(), String> {
    let data = disk.path().join("data");
    let mut daemon = Launch::on(&data).must_listen().await?;
    figures.settled += settle(&daemon.connect().await?, oracle, chance).await?;
    let texts = if chance.u8(..4) == 0 { Texts::Heavy } else { Texts::Mixed };
    let churn = chance.bool();
    let mix = Mix::of(texts, if churn { CHURNED } else { KEYS });
    if chance.u8(..3) == 0 {
        // Closing makes a checkpoint, and the next life begins from it.
        let load = Load::start(&daemon, oracle, mix, chance).await?;
        sleep(Duration::from_millis(chance.u64(50..400))).await; // ok: how much is written is drawn by lot
        figures.acknowledged += load.finish().await?.acknowledged();
        daemon.stop().await?;
        daemon = Launch::on(&data).must_listen().await?;
        figures.reopened += 1;
    }
    let load = Load::start(&daemon, oracle, mix, chance).await?;
    let mut left = chance.u64(50..if texts == Texts::Heavy { 3000 } else { 900 });
    while left > 0 {
        let step = left.min(chance.u64(1..200));
        sleep(Duration::from_millis(step)).await; // ok: the instant of the cut is drawn by lot
        left -= step;
        if chance.bool() {
            sync_one(&data, chance)?;
        }
    }
    if chance.u8(..4) == 0 {
        daemon.terminate()?;
        sleep(Duration::from_millis(chance.u64(..60))).await; // ok: the instant of the cut is drawn by lot
        figures.closing += 1;
    }
    figures.churning += usize::from(churn);
    cut(disk, daemon, load, figures, chance).await
}

async fn cut(disk: &Disk, daemon: Daemon, load: Load, figures: &mut Figures, chance: &mut fastrand::Rng) -> Result<(), String> {
    disk.cut(match chance.u8(..8) {
        0 => Cut::AfterSync,
        1..4 => Cut::AfterLog,
        _ => Cut::AtOnce,
    })?;
    // For a moment the daemon goes on with a disk that is gone: whatever it acknowledges now it must have had before.
    sleep(Duration::from_millis(chance.u64(..30))).await; // ok: how long the daemon outlives its disk is drawn by lot
    daemon.kill().await?;
    figures.acknowledged += load.finish().await?.acknowledged();
    disk.mount_again()?;
    make_of_an_earlier_boot(&disk.path().join("data")).map_err(|error| format!("cannot change the note of the boot: {error}"))?;
    figures.cuts += 1;
    Ok(())
}

/// Makes one file of the store durable, as the kernel may on its own at any time.
fn sync_one(data: &Path, chance: &mut fastrand::Rng) -> Result<(), String> {
    let mut files = Vec::new();
    for folder in [data.join("sled"), data.join("journal")] {
        let entries = folder.read_dir().map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
        files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    files.sort();
    if files.is_empty() {
        return Ok(());
    }
    let path = &files[chance.usize(..files.len())];
    match OpenOptions::new().write(true).open(path).and_then(|file| file.sync_data()) {
        // The daemon may have removed it meanwhile.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot sync {}: {error}", path.display())),
        _ => Ok(()),
    }
}
