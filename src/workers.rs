//! Threads for what blocks or takes long, apart from those that serve connections.
//!
//! Reads that wait for a disk have some of their own. The work on articles that come in (checking, encoding, compressing) takes most
//! of the time that there is while they come in bulk, and nobody waits for a single one of them: so it is done in the background, by
//! threads of a lower priority than those that answer.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// How much lower, on the scale of nice(2): enough that a thread which answers gets a core at once, and far from being starved.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// There is no lower priority on that scale.
#[cfg(target_os = "linux")]
const LEAST: i32 = 19;

/// A bounded number of threads, which begin when there is something to do, and end with this.
#[derive(Debug)]
pub struct Workers {
    /// `None` once it was dropped.
    runtime: Option<Runtime>,
}

impl Workers {
    /// At most so many threads with this name.
    ///
    /// # Errors
    /// Where the system has no more to give.
    pub fn new(name: &str, threads: usize) -> io::Result<Self> {
        Self::build(Builder::new_current_thread().max_blocking_threads(threads).thread_name(name))
    }

    /// Threads with this name and a low priority, as many as there are cores.
    ///
    /// # Errors
    /// Where the system has no more to give.
    pub fn background(name: &str) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::build(Builder::new_current_thread().max_blocking_threads(threads).thread_name(name).on_thread_start(lower_priority))
    }

    fn build(builder: &mut Builder) -> io::Result<Self> {
        Ok(Self { runtime: Some(builder.build()?) })
    }

    /// Runs a job there, after those that wait already. The caller bounds how many that are. One whose waiter goes away is done
    /// all the same.
    ///
    /// # Panics
    /// Where the job does.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let Some(runtime) = &self.runtime else { return job() };
        match runtime.spawn_blocking(job).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // It can be cancelled by the end of the runtime alone, which whoever waits here keeps alive.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Also where the last owner is a task, which may not wait for threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of this thread alone: where the system allows no priority a thread, nothing changes.
#[cfg(target_os = "linux")]
pub fn lower_priority() {
    let thread = Some(rustix::thread::gettid());
    let lower = |nice: i32| rustix::process::setpriority_process(thread, (nice + NICE).min(LEAST));
    if let Err(error) = rustix::process::getpriority_process(thread).and_then(lower) {
        tracing::debug!(%error, "a thread keeps its priority, and does the same work");
    }
}

/// Changes nothing.
#[cfg(not(target_os = "linux"))]
pub fn lower_priority() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn jobs_run_on_threads_of_a_lower_priority() {
        let workers = Workers::background("test-background").unwrap();
        let (name, nice) = workers.run(|| (std::thread::current().name().map(str::to_owned), nice())).await;
        assert_eq!(name.as_deref(), Some("test-background"));
        assert_eq!(nice, (self::nice() + NICE).min(LEAST));
    }

    #[cfg(target_os = "linux")]
    fn nice() -> i32 {
        rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap()
    }

    #[tokio::test]
    #[should_panic(expected = "as planned")]
    async fn a_job_that_panics_panics_for_its_waiter() {
        Workers::background("test-background").unwrap().run(|| panic!("as planned")).await
    }
}
