//! The short form for the gate: ratios of CPU time to the bare server, against those that were recorded.
//!
//! A machine that others use too makes single measurements worse, never better: what exceeds its bound is measured again, and the best
//! of a few counts.

use std::collections::BTreeMap;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::Deserialize;

use crate::Fallible;
use crate::phases::{Phase, Runner};
use crate::report::{Pair, markdown};
use crate::server::Subject;

/// How many times the recorded ratio is a regression.
const REGRESSION: f64 = 1.5;
/// How often a phase is measured at most.
const ATTEMPTS: usize = 3;

/// benches/bounds.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    /// By phase: the daemon's CPU time for an operation, as a multiple of the bare server's.
    cpu: BTreeMap<String, f64>,
}

/// Measures every phase that has a bound. False where one exceeds it.
///
/// # Errors
/// Where a phase fails, or the bounds cannot be read.
pub async fn check(runner: &mut Runner) -> Fallible<bool> {
    let bounds: Bounds = Figment::from(Toml::string(include_str!("../bounds.toml"))).extract()?;
    if let Some(stray) = bounds.cpu.keys().find(|name| !Phase::ALL.iter().any(|phase| phase.to_string() == **name)) {
        return Err(format!("benches/bounds.toml: there is no phase {stray}").into());
    }
    let mut rows = vec![["phase", "CPU ratio", "recorded", "limit", ""].map(str::to_owned)];
    let mut holds = true;
    for phase in Phase::ALL {
        let Some(recorded) = bounds.cpu.get(&phase.to_string()) else { continue };
        let limit = recorded * REGRESSION;
        let mut best = f64::INFINITY;
        for attempt in 1..=ATTEMPTS {
            best = best.min(ratio(runner, phase).await?);
            if best <= limit {
                break;
            }
            eprintln!("{phase}, attempt {attempt} of {ATTEMPTS}: {best:.2}x is more than {limit:.2}x");
        }
        holds &= best <= limit;
        let verdict = if best <= limit { "holds" } else { "EXCEEDED" };
        rows.push([phase.to_string(), format!("{best:.2}x"), format!("{recorded:.2}x"), format!("{limit:.2}x"), verdict.to_owned()]);
    }
    println!("{}", markdown(&rows));
    Ok(holds)
}

async fn ratio(runner: &mut Runner, phase: Phase) -> Fallible<f64> {
    let ceiling = runner.run(phase, Subject::Ceiling).await?;
    let dateline = runner.run(phase, Subject::Dateline).await?.ok_or("the daemon has every phase")?;
    let pair = Pair { dateline: &dateline, ceiling: ceiling.as_ref() };
    Ok(pair.cpu_ratio().ok_or_else(|| format!("{phase} has nothing to compare it with"))?)
}
