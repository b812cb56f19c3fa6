//! Starts and stops the real daemon.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use dateline::client::{Client, v1};
use tempfile::TempDir;

/// A running daemon with a folder of its own; killed when dropped.
pub struct Daemon {
    folder: TempDir,
    process: Child,
    pub address: String,
    pub client: Client,
}

/// The program with these arguments and nothing of the tester's environment.
pub fn dateline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dateline"));
    command.args(args).env_remove("DATELINE_SERVER").env_remove("DATELINE_CORPUS").stdin(Stdio::null());
    command
}

pub fn article(date: &str, url: &str, title: &str, body: &str) -> v1::Article {
    v1::Article { date: date.into(), url: url.into(), title: title.into(), body: body.into(), ..Default::default() }
}

pub fn key(date: &str, url: &str) -> v1::ArticleKey {
    v1::ArticleKey { date: date.into(), url: url.into() }
}

impl Daemon {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts it with other settings, such as variables of its environment.
    pub async fn start_with(configure: impl FnOnce(&mut Command)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), configure).await
    }

    /// Starts it on the folder `data` in this one.
    pub async fn start_in(folder: TempDir, configure: impl FnOnce(&mut Command)) -> Self {
        let (process, address, client) = launch(&folder, ANY_PORT, configure).await;
        Self { folder, process, address, client }
    }

    /// Where the daemon keeps its data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Stops it as an operator would, which must succeed, and starts it again.
    pub async fn restart(&mut self) {
        self.terminate();
        assert!(self.ended().success(), "the daemon must end with success");
        assert!(!self.data().join("RUNNING").exists(), "the daemon must say that it has ended");
        self.start_again().await;
    }

    /// Tells it to stop, and does not wait for that.
    pub fn terminate(&self) {
        assert!(Command::new("kill").arg(self.process.id().to_string()).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Starts it again once it has ended.
    pub async fn start_again(&mut self) {
        (self.process, self.address, self.client) = launch(&self.folder, ANY_PORT, |_| ()).await;
    }

    /// Stops it as an operator would, and starts it again with other settings.
    pub async fn restart_with(&mut self, configure: impl FnOnce(&mut Command)) {
        self.terminate();
        assert!(self.ended().success(), "the daemon must end with success");
        assert!(!self.data().join("RUNNING").exists(), "the daemon must say that it has ended");
        self.start_again_with(configure).await;
    }

    /// Starts it again with other settings once it has ended.
    pub async fn start_again_with(&mut self, configure: impl FnOnce(&mut Command)) {
        (self.process, self.address, self.client) = launch(&self.folder, ANY_PORT, configure).await;
    }

    /// Its log, where it was started with a piped standard error.
    pub fn log(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.process.stderr.take().unwrap()).lines().map_while(Result::ok)
    }

    /// Ends it without any warning.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ends it without any warning and starts it again.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.start_again().await;
    }

    /// The same at the same address, as clients see it that come back.
    pub async fn kill_and_restart_in_place(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.start_again_in_place().await;
    }

    /// Starts it again at the same address once it has ended.
    pub async fn start_again_in_place(&mut self) {
        let listen = self.address.trim_start_matches("http://").to_owned();
        (self.process, self.address, self.client) = launch(&self.folder, &listen, |_| ()).await;
    }

    /// The most bytes of memory that it had so far.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Everything that StreamArticles gives.
    pub async fn stream(&self, filter: Option<v1::ArticleFilter>, order: v1::SortOrder) -> Vec<v1::Article> {
        let request = v1::StreamArticlesRequest { filter, order: order.into(), ..Default::default() };
        let mut stream = self.client.stream_articles(request).await.unwrap();
        let mut articles = Vec::new();
        while let Some(article) = stream.next().await.unwrap() {
            articles.push(article);
        }
        articles
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

const ANY_PORT: &str = "127.0.0.1:0";

async fn launch(folder: &TempDir, listen: &str, configure: impl FnOnce(&mut Command)) -> (Child, String, Client) {
    let data = folder.path().join("data");
    let mut command = dateline(&["serve", "--listen", listen, "--data", data.to_str().unwrap()]);
    configure(command.stdout(Stdio::piped()));
    let mut process = command.spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
    let address = address.expect("the daemon must say where it listens");
    let client = Client::connect(&address).await.unwrap();
    (process, address, client)
}
