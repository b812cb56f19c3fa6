//! The log: to standard error, by default what an operator should know and nothing of what articles say.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging. `DATELINE_LOG` sets what is logged, as in `info,dateline=debug`.
pub fn start() {
    let filter = EnvFilter::try_from_env("DATELINE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,dateline=info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // Where logging was started before, as in tests, that one stays.
    drop(log.try_init());
}
