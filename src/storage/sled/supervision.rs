//! Panics inside sled: noticed on whatever thread they happen, and made errors.
//!
//! sled panics where its files are not what it expects, also on threads of its own, whose end nobody hears of: whoever waits for
//! them then waits for ever. So the process's panic hook tells the store, which fails; what hangs in sled is left behind.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak, mpsc};

use crate::storage::StoreError;

type OnPanic = dyn Fn(String) + Send + Sync;

static INSTALL: Once = Once::new();
static WATCHERS: Mutex<Vec<Weak<OnPanic>>> = Mutex::new(Vec::new());

/// Is told of panics on sled's own threads for as long as it lives.
#[must_use]
pub struct PanicWatch(#[expect(dead_code, reason = "kept alive")] Arc<OnPanic>);

impl std::fmt::Debug for PanicWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PanicWatch")
    }
}

/// Has `on_panic` told of every panic on a thread of sled's: of any store in this process, since threads do not tell whose they
/// are.
pub fn watch_panics(on_panic: impl Fn(String) + Send + Sync + 'static) -> PanicWatch {
    INSTALL.call_once(install);
    let on_panic: Arc<OnPanic> = Arc::new(on_panic);
    let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
    watchers.retain(|watcher| watcher.strong_count() > 0);
    watchers.push(Arc::downgrade(&on_panic));
    PanicWatch(on_panic)
}

fn install() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        if std::thread::current().name().is_some_and(is_of_sled) {
            let text = panic_text(panic.payload());
            // Outside the lock, so that a watcher may watch.
            let watchers: Vec<_> = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
            watchers.iter().for_each(|watcher| watcher(text.clone()));
        }
    }));
}

/// The names that sled 0.34 gives its threads.
fn is_of_sled(thread: &str) -> bool {
    thread.starts_with("sled-io-") || thread == "log flusher"
}

/// What a panic says.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string).or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it does not say why".into())
}

/// Runs a job that opens sled on a thread of its own: a panic, there or on sled's threads, becomes an error, even where the job
/// never returns from it.
pub fn supervised<T: Send + 'static>(what: &str, job: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    let (outcome, first) = mpsc::channel();
    let damaged = {
        let what = what.to_owned();
        move |text: String| StoreError::damaged(&what, format!("sled cannot make sense of it ({text}): restore a backup"))
    };
    let _watch = watch_panics({
        let (outcome, damaged) = (outcome.clone(), damaged.clone());
        move |text| drop(outcome.send(Err(damaged(text))))
    });
    super::spawn("open", move || {
        let done = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| Err(damaged(panic_text(&*panic))));
        // Where a panic on another thread came first, nobody waits any more, and what was opened must not be dropped: sled's
        // threads may never end.
        if let Err(mpsc::SendError(unwanted)) = outcome.send(done) {
            std::mem::forget(unwanted);
        }
    })?;
    first.recv().unwrap_or_else(|_| Err(StoreError::Failed("the thread that opens the store ended".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells the test that it has the process to itself.
    const ALONE: &str = "DATELINE_TEST_ALONE";

    #[test]
    fn a_panic_of_the_job_or_of_a_sled_thread_is_an_error() {
        // Every store of a process hears of such a panic, also those of other tests.
        if std::env::var_os(ALONE).is_none() {
            let this = "storage::sled::supervision::tests::a_panic_of_the_job_or_of_a_sled_thread_is_an_error";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", this]).env(ALONE, "1").output().unwrap();
            assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
            return;
        }
        assert_eq!(supervised("x", || Ok(7)).unwrap(), 7);
        let error = supervised::<()>("x", || panic!("in the job")).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { detail, .. } if detail.contains("in the job")), "{error}");
        let error = supervised::<()>("x", || {
            let thread = std::thread::Builder::new().name("sled-io-7".into());
            drop(thread.spawn(|| panic!("on a thread of sled's")).unwrap().join());
            // As whoever waits for that thread's work does.
            loop {
                std::thread::park();
            }
        })
        .unwrap_err();
        assert!(error.to_string().contains("on a thread of sled's"), "{error}");
    }
}
