//! The fault harness: the real daemon is killed, cut off from its disk and given damaged files, and an oracle outside of it knows
//! what it must hold all the same.
//!
//! `cargo test` runs a small form of every test. `DATELINE_FAULTS=quick cargo test --release --test faults` runs what the gate
//! runs, `DATELINE_FAULTS=long` much more. A test whose means are missing on this machine (root, a loop device, strace ...) is
//! reported as ignored, with the reason in its name.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

mod faults {
    pub mod articles;
    pub mod calls;
    pub mod check;
    pub mod clock;
    pub mod crashes;
    pub mod daemon;
    pub mod disk;
    pub mod errors;
    pub mod failures;
    pub mod flips;
    pub mod full;
    pub mod history;
    pub mod image;
    pub mod judge;
    pub mod kills;
    pub mod load;
    pub mod means;
    pub mod oracle;
    pub mod plan;
    pub mod power;
    pub mod readers;
    pub mod recording;
    pub mod replay;
    pub mod scratch;
    pub mod slow;
    pub mod strace;
    pub mod streams;
    pub mod twice;
    pub mod writers;
}

use faults::plan::Plan;
use faults::{calls, clock, crashes, disk, errors, flips, full, kills, means, power, slow, twice};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let plan = match Plan::from_environment() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    disk::clear_leftovers();
    let trials = vec![
        trial(&plan, "kills", Ok(()), kills::test),
        trial(&plan, "system_calls", means::strace(), calls::test),
        trial(&plan, "power_cuts", means::disk(), power::test),
        trial(&plan, "crash_images", means::strace(), crashes::test),
        trial(&plan, "damage", Ok(()), flips::test),
        trial(&plan, "disk_full", means::disk(), full::disk),
        trial(&plan, "file_size_limit", means::prlimit(), full::file_size),
        trial(&plan, "disk_errors", means::strace(), errors::test),
        trial(&plan, "slow_sync", means::strace(), slow::test),
        trial(&plan, "two_daemons", Ok(()), twice::test),
        trial(&plan, "clock_jumps", means::faketime().map(drop), clock::test),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that gives its figures, or what went wrong.
fn trial<F>(plan: &Plan, name: &'static str, means: Result<(), String>, test: fn(Plan) -> F) -> Trial
where
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let plan = plan.clone();
    let (title, missing) = match &means {
        Ok(()) => (name.to_owned(), false),
        Err(reason) => (format!("{name} (ignored: {reason})"), true),
    };
    let run = move || {
        let command = plan.command("faults", name);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        means.and_then(|()| runtime.block_on(test(plan))).map_or_else(
            |error| Err(Failed::from(format!("{error}\nagain: {command}"))),
            |figures| {
                println!("{name}: {figures}\n    {command}");
                Ok(())
            },
        )
    };
    Trial::test(title, run).with_ignored_flag(missing)
}
