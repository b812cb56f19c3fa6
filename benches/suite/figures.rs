//! What is measured of a phase.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Fallible;
use crate::server::{Server, Subject, machine_cpu, own_cpu};

/// Latencies in microseconds, from 1 to 5 minutes, with three digits.
pub type Latencies = Histogram<u64>;

/// An empty record of latencies.
pub fn latencies() -> Latencies {
    // cannot fail: the bounds are in order, and three digits are allowed.
    Histogram::new_with_bounds(1, 300_000_000, 3).expect("the bounds are valid")
}

/// What came of a load, before what it cost is put beside it.
pub struct Done {
    /// Articles, or calls where each has one.
    pub operations: u64,
    /// How long calls took; for bulk loads how long it took from sending a batch to its acknowledgement.
    pub latencies: Latencies,
    /// When the last answer came.
    pub ended: Instant,
}

/// The figures of one phase and server.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The phase.
    pub phase: String,
    /// The server.
    pub subject: Subject,
    /// Articles, or calls where each has one.
    pub operations: u64,
    /// How long it took.
    pub seconds: f64,
    /// Operations a second.
    pub per_second: f64,
    /// Latencies in milliseconds, where single calls were measured.
    pub p50_ms: Option<f64>,
    /// As above.
    pub p99_ms: Option<f64>,
    /// As above.
    pub p999_ms: Option<f64>,
    /// The server's CPU time for an operation, in microseconds, while the phase lasted.
    pub cpu_us: f64,
    /// What it took afterwards, until it was at rest, for an operation.
    pub deferred_cpu_us: f64,
    /// The load generator's CPU time for an operation.
    pub generator_cpu_us: f64,
    /// How much of the machine's CPU time others took meanwhile, in percent: neither the server nor the load. Where that is much, rates and
    /// latencies mean little.
    pub others_percent: f64,
    /// The most memory that the server had resident while the phase lasted, in MiB.
    pub peak_memory_mib: f64,
    /// What only this phase has.
    #[serde(flatten)]
    pub more: std::collections::BTreeMap<&'static str, f64>,
}

impl Figures {
    /// All CPU time of the server for an operation, in microseconds.
    pub fn all_cpu_us(&self) -> f64 {
        self.cpu_us + self.deferred_cpu_us
    }

    /// Adds a figure that only this phase has.
    pub fn with(mut self, name: &'static str, value: f64) -> Self {
        self.more.insert(name, value);
        self
    }
}

/// Watches a server while a phase lasts.
pub struct Meter {
    began: Instant,
    server_cpu: Duration,
    own_cpu: Duration,
    machine_cpu: (Duration, Duration),
}

impl Meter {
    /// Begins.
    ///
    /// # Errors
    /// Where the server is gone.
    pub fn start(server: &Server) -> Fallible<Self> {
        server.reset_peak_memory()?;
        Ok(Self { server_cpu: server.cpu()?, own_cpu: own_cpu()?, machine_cpu: machine_cpu()?, began: Instant::now() })
    }

    /// Ends when the load is done. With `settle`, what the server does in the background afterwards is waited for and counted.
    ///
    /// # Errors
    /// Where the server is gone.
    pub async fn stop(self, phase: &str, server: &Server, done: Done, settle: bool) -> Fallible<Figures> {
        let cpu = server.cpu()? - self.server_cpu;
        let generator = own_cpu()? - self.own_cpu;
        let (busy, all) = machine_cpu()?;
        let (busy, all) = (busy.saturating_sub(self.machine_cpu.0), all.saturating_sub(self.machine_cpu.1));
        let others = busy.saturating_sub(cpu + generator).as_secs_f64() / all.as_secs_f64().max(0.001);
        let peak = server.peak_memory()?;
        let deferred = if settle { server.settle().await? } else { Duration::ZERO };
        let operations = done.operations.max(1) as f64;
        let per_operation = |time: Duration| time.as_secs_f64() * 1e6 / operations;
        let seconds = (done.ended - self.began).as_secs_f64();
        let latency = |quantile| (!done.latencies.is_empty()).then(|| done.latencies.value_at_quantile(quantile) as f64 / 1e3);
        Ok(Figures {
            phase: phase.to_owned(),
            subject: server.subject,
            operations: done.operations,
            seconds,
            per_second: done.operations as f64 / seconds,
            p50_ms: latency(0.5),
            p99_ms: latency(0.99),
            p999_ms: latency(0.999),
            cpu_us: per_operation(cpu),
            deferred_cpu_us: per_operation(deferred),
            generator_cpu_us: per_operation(generator),
            others_percent: others * 100.0,
            peak_memory_mib: peak as f64 / f64::from(1 << 20),
            more: Default::default(),
        })
    }
}
