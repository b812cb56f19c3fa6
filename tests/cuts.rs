//! Long calls over a network that breaks: a proxy between real clients and the real daemon cuts connections at any byte, and in the
//! end nothing is missing and nothing came twice. And clients that stop reading, which cost the daemon little memory.
//!
//! `cargo test` runs a small form of every test. `DATELINE_FAULTS=quick` and `long`, with `cargo test --release --test cuts`, do
//! more.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

mod cuts {
    pub mod commit;
    pub mod consumer;
    pub mod input;
    pub mod memory;
    pub mod proxy;
    pub mod run;
    pub mod takeover;
}
#[path = "faults/daemon.rs"]
#[expect(dead_code, reason = "the fault harness uses the rest")]
mod daemon;
#[path = "faults/plan.rs"]
#[expect(dead_code, reason = "the fault harness uses the rest")]
mod plan;

use plan::Plan;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let plan = match Plan::from_environment() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let trials = vec![
        trial(&plan, "cuts", cuts::run::test),
        trial(&plan, "lost_answer", cuts::commit::test),
        trial(&plan, "late_opening", cuts::takeover::test),
        trial(&plan, "memory", cuts::memory::test),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that gives its figures, or what went wrong.
fn trial<F>(plan: &Plan, name: &'static str, test: fn(Plan) -> F) -> Trial
where
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let plan = plan.clone();
    Trial::test(name, move || {
        let command = plan.command("cuts", name);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        match runtime.block_on(test(plan)) {
            Ok(figures) => {
                println!("{name}: {figures}\n    {command}");
                Ok(())
            }
            Err(error) => Err(Failed::from(format!("{error}\nagain: {command}"))),
        }
    })
}
