//! Starts the real daemon, under another program where a fault needs one, and tells how it ended.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use dateline::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A daemon that neither listens nor ends within this time hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How to start a daemon.
#[derive(Debug, Clone)]
pub struct Launch {
    data: PathBuf,
    /// Where its log goes; appended to.
    log: PathBuf,
    /// A program that runs the daemon, with its arguments. It must replace itself by the daemon.
    under: Vec<OsString>,
    environment: Vec<(String, String)>,
}

impl Launch {
    /// On this data folder. The log stands beside it.
    pub fn on(data: &Path) -> Self {
        Self { data: data.to_owned(), log: data.with_extension("log"), under: Vec::new(), environment: Vec::new() }
    }

    /// Under another program.
    pub fn under(mut self, program: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.under = program.into_iter().map(Into::into).collect();
        self
    }

    /// With this in the environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&self) -> Result<Starting, String> {
        let binary = OsString::from(env!("CARGO_BIN_EXE_dateline"));
        let mut words = self.under.iter().cloned().chain([binary]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&self.data);
        // Of the tester's environment nothing that the daemon takes for a setting, but a fault that is planted in it.
        let setting = |name: &str| name.starts_with("DATELINE_") && name != "DATELINE_PLANTED_FAULT";
        std::env::vars_os().filter(|(name, _)| setting(&name.to_string_lossy())).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(|error| format!("the daemon's log: {error}"))?;
        let log_start = log.metadata().map_err(|error| format!("the daemon's log: {error}"))?.len();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut process = command.spawn().map_err(|error| format!("the daemon cannot be started: {error}"))?;
        let lines = BufReader::new(process.stdout.take().ok_or("the daemon has no output")?).lines();
        Ok(Starting { process, lines, log: self.log.clone(), log_start })
    }

    /// Starts the daemon and waits until it listens or ends.
    pub async fn start(&self) -> Result<Started, String> {
        self.spawn()?.wait().await
    }

    /// Starts the daemon, which must come to listen.
    pub async fn must_listen(&self) -> Result<Daemon, String> {
        match self.start().await? {
            Started::Listening(daemon) => Ok(*daemon),
            Started::Ended(ended) => Err(format!("the daemon did not start: {ended}")),
        }
    }
}

/// A daemon that does not listen yet.
pub struct Starting {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
    log_start: u64,
}

/// What became of a start.
pub enum Started {
    Listening(Box<Daemon>),
    Ended(Ended),
}

impl Starting {
    /// Waits until the daemon listens or ends.
    pub async fn wait(mut self) -> Result<Started, String> {
        let address = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                if let Some(address) = line.strip_prefix("listening on ") {
                    return Some(address.to_owned());
                }
            }
            None
        };
        let Ok(address) = timeout(PATIENCE, address).await else {
            return Err(format!("HANG: the daemon neither listens nor ends within {PATIENCE:?}; its log: {}", self.log_text()));
        };
        match address {
            None => Ok(Started::Ended(self.ended().await?)),
            Some(address) => Ok(Started::Listening(Box::new(Daemon { running: self, address }))),
        }
    }

    /// Ends the daemon without any warning.
    pub async fn kill(mut self) -> Result<(), String> {
        self.process.kill().await.map_err(|error| format!("the daemon cannot be killed: {error}"))?;
        self.output_closed().await
    }

    /// Waits until nobody holds the daemon's output any more: a program that traced it has then written all that it saw.
    async fn output_closed(&mut self) -> Result<(), String> {
        let closed = async { while let Ok(Some(_)) = self.lines.next_line().await {} };
        timeout(PATIENCE, closed).await.map_err(|_| "the daemon ended, but what ran beside it does not".into())
    }

    async fn ended(&mut self) -> Result<Ended, String> {
        match timeout(PATIENCE, self.process.wait()).await {
            Ok(Ok(status)) => {
                self.output_closed().await?;
                Ok(Ended { status, log: self.log_text() })
            }
            Ok(Err(error)) => Err(format!("the daemon cannot be waited for: {error}")),
            Err(_) => Err(format!("HANG: the daemon does not end within {PATIENCE:?}; its log: {}", self.log_text())),
        }
    }

    fn log_text(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[(self.log_start as usize).min(text.len())..]).into_owned()
    }
}

/// A daemon that listens; killed when dropped.
pub struct Daemon {
    running: Starting,
    pub address: String,
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// What it wrote to its log.
    pub log: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<_> = self.log.lines().collect();
        let from = lines.len().saturating_sub(12);
        write!(f, "{}; the end of its log:\n    {}", self.status, lines[from..].join("\n    "))
    }
}

impl Ended {
    /// Whether the daemon ended on its own with an error that it named in a sentence for people.
    pub fn with_message(&self) -> bool {
        self.status.code().is_some_and(|code| code != 0) && self.log.lines().any(|line| line.starts_with("dateline: "))
    }
}

impl Daemon {
    /// A connection of its own.
    pub async fn connect(&self) -> Result<Client, String> {
        Client::connect(&self.address).await.map_err(|error| format!("the daemon listens, but nobody answers: {error}"))
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.running.process.id()
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        self.running.log_text()
    }

    /// Ends it without any warning.
    pub async fn kill(self) -> Result<(), String> {
        self.running.kill().await
    }

    /// Asks it to stop, as an operator would.
    pub fn terminate(&self) -> Result<(), String> {
        let id = self.id().and_then(|id| Pid::from_raw(id as i32)).ok_or("the daemon has ended by itself")?;
        kill_process(id, Signal::TERM).map_err(|error| format!("the daemon cannot be told to stop: {error}"))
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Result<Ended, String> {
        self.running.ended().await
    }

    /// Whether it has ended by itself, and how.
    pub async fn has_ended(&mut self) -> Result<Option<Ended>, String> {
        match self.running.process.try_wait() {
            Ok(None) => Ok(None),
            Ok(Some(_)) => self.running.ended().await.map(Some),
            Err(error) => Err(format!("the daemon cannot be waited for: {error}")),
        }
    }

    /// Stops it as an operator would, which must succeed.
    pub async fn stop(self) -> Result<(), String> {
        self.terminate()?;
        let ended = self.ended().await?;
        if ended.status.success() { Ok(()) } else { Err(format!("the daemon failed while it was stopped: {ended}")) }
    }

    /// Whether each service says of itself that it serves, by name; the whole server has the empty name.
    pub async fn health(&self) -> Result<Vec<(&'static str, bool)>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("health cannot be asked for: {error}");
        let endpoint = Endpoint::from_shared(self.address.clone()).map_err(|error| failed(&error))?;
        let mut client = HealthClient::new(endpoint.connect().await.map_err(|error| failed(&error))?);
        let mut health = Vec::new();
        for service in ["", "dateline.v1.ArticleService", "dateline.v1.IngestService"] {
            let response = client.check(HealthCheckRequest { service: service.into() }).await.map_err(|error| failed(&error))?;
            health.push((service, response.into_inner().status() == ServingStatus::Serving));
        }
        Ok(health)
    }
}
