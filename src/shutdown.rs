//! When to stop: signals become one token that everything else waits on.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the system sends where a file would grow beyond the limit of the process; the number is that of Linux.
const SIGXFSZ: i32 = 25;

/// A token that SIGTERM and SIGINT cancel. A second signal ends the process at once.
///
/// # Errors
/// Where signals cannot be listened for.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Listened for, it no longer kills: a file that may not grow any more is an error like a full disk.
    let file_size = signal(SignalKind::from_raw(SIGXFSZ))?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let _file_size = file_size;
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                stop.cancel();
            } else {
                // What is acknowledged is durable: there is nothing that must be waited for.
                std::process::exit(1);
            }
        }
    });
    Ok(token)
}
