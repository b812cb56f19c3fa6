//! The `dateline` program: reads the command line, runs one command, and says with its exit status how it went.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use dateline::cli::{self, Cli};

/// Threads hand articles to each other all the time, which the system's allocator pays for with locks: it takes 30 % more
/// CPU for a bulk load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for files that commands read and write. Each keeps memory of its own, and left to itself the runtime starts one for every job
/// that comes while others end.
const BLOCKING_THREADS: usize = 10;

/// How long the daemon's last tasks, and with them the store that they hold, are waited for.
const DAEMON_ENDS: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_daemon = cli.is_daemon();
    let runtime = match tokio::runtime::Builder::new_multi_thread().max_blocking_threads(BLOCKING_THREADS).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dateline: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli::run(cli));
    // A read of standard input that never ends must not keep a client's process, and what hangs in a failed store not the daemon's.
    runtime.shutdown_timeout(if is_daemon && result.is_ok() { DAEMON_ENDS } else { Duration::ZERO });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dateline: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
