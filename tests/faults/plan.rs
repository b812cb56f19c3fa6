//! How much to do, and where chance comes from.
//!
//! `DATELINE_FAULTS` chooses between a smoke test (where it is not set), `quick` and `long`. `DATELINE_FAULTS_SEED` repeats the
//! random choices of an earlier run; what happens at which instant still depends on the machine.

use std::env;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

/// How much to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Smoke,
    Quick,
    Long,
}

/// What a run of the harness does.
#[derive(Debug, Clone)]
pub struct Plan {
    size: Size,
    seed: u64,
    /// Where data folders of failed tests are kept; `None` throws them away.
    pub keep: Option<PathBuf>,
}

impl Plan {
    /// What the environment asks for.
    pub fn from_environment() -> Result<Self, String> {
        let size = match env::var("DATELINE_FAULTS").as_deref() {
            Err(_) | Ok("smoke") => Size::Smoke,
            Ok("quick") => Size::Quick,
            Ok("long") => Size::Long,
            Ok(other) => return Err(format!("DATELINE_FAULTS is {other:?}: it must be smoke, quick or long")),
        };
        let seed = match env::var("DATELINE_FAULTS_SEED") {
            Err(_) => fastrand::u64(..),
            Ok(text) => text.parse().map_err(|_| format!("DATELINE_FAULTS_SEED is {text:?}: it must be a number"))?,
        };
        Ok(Self { size, seed, keep: env::var_os("DATELINE_FAULTS_KEEP").map(PathBuf::from) })
    }

    /// One of three numbers.
    pub fn number(&self, smoke: usize, quick: usize, long: usize) -> usize {
        match self.size {
            Size::Smoke => smoke,
            Size::Quick => quick,
            Size::Long => long,
        }
    }

    /// The random choices of one test, which do not depend on which others run.
    pub fn chance(&self, test: &str) -> fastrand::Rng {
        let mut hasher = DefaultHasher::new();
        test.hash(&mut hasher);
        fastrand::Rng::with_seed(self.seed ^ hasher.finish())
    }

    /// How to run one test again with the same choices.
    pub fn command(&self, program: &str, test: &str) -> String {
        let size = format!("{:?}", self.size).to_lowercase();
        format!("DATELINE_FAULTS={size} DATELINE_FAULTS_SEED={} cargo test --release --test {program} -- {test}", self.seed)
    }
}
