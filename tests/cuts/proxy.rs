//! A proxy that cuts connections: after so many bytes in either direction, in one of several ways.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The fewest and the most bytes before a cut. Any order of magnitude is as likely as any other: in the preface of HTTP/2, within
/// a frame, within a message, between messages.
const BYTES: (f64, f64) = (1.0, 4_000_000.0);
/// How long the other direction may go on after one was closed.
const HALF_OPEN: Duration = Duration::from_millis(300);

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    Client,
    Server,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Closed towards both sides.
    Close,
    /// Reset towards both sides: what was sent and not read yet may be lost.
    Reset,
    /// The direction ends, the other goes on for a while.
    HalfClose,
}

/// Where a connection is to be cut: after so many bytes of either side, whichever comes first.
#[derive(Debug, Clone, Copy)]
struct Cut {
    client_bytes: u64,
    server_bytes: u64,
    kind: Kind,
}

/// Listens, and stops when dropped.
pub struct Proxy {
    pub address: String,
    shared: Arc<Shared>,
    _alive: DropGuard,
}

struct Shared {
    upstream: Mutex<String>,
    chance: Mutex<fastrand::Rng>,
    /// Whether connections are to be cut.
    cutting: watch::Sender<bool>,
    /// Whether what the server sends is held back.
    holding: watch::Sender<bool>,
    held: AtomicU64,
    /// Whether what clients send over new connections stays here.
    late: watch::Sender<bool>,
    /// What clients sent that way.
    late_bytes: Mutex<Vec<u8>>,
    /// Whether the server is to get it now, and how many bytes it has answered.
    delivering: watch::Sender<bool>,
    answered: watch::Sender<u64>,
    /// Told to cut every connection there is.
    cut_all: watch::Sender<u64>,
    cuts: Mutex<BTreeMap<(From, Kind), usize>>,
}

impl Proxy {
    /// Listens for connections to a server.
    pub async fn to(server: &str, chance: fastrand::Rng) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            upstream: Mutex::new(of_url(server)),
            chance: Mutex::new(chance),
            cutting: watch::Sender::new(false),
            holding: watch::Sender::new(false),
            held: AtomicU64::new(0),
            late: watch::Sender::new(false),
            late_bytes: Mutex::default(),
            delivering: watch::Sender::new(false),
            answered: watch::Sender::new(0),
            cut_all: watch::Sender::new(0),
            cuts: Mutex::default(),
        });
        let alive = CancellationToken::new();
        let (accepting, stop) = (Arc::clone(&shared), alive.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                let (shared, stop) = (Arc::clone(&accepting), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        // A connection that broke by itself is what this proxy is for.
                        ended = shared.serve(client) => drop(ended),
                    }
                });
            }
        });
        Ok(Self { address, shared, _alive: alive.drop_guard() })
    }

    /// From now on connections go to this server.
    pub fn set_server(&self, server: &str) {
        *lock(&self.shared.upstream) = of_url(server);
    }

    /// Whether connections that begin from now on are cut.
    pub fn set_cutting(&self, cutting: bool) {
        self.shared.cutting.send_replace(cutting);
    }

    /// Whether what the server sends is held back.
    pub fn set_holding(&self, holding: bool) {
        self.shared.holding.send_replace(holding);
    }

    /// How many bytes of the server were held back so far.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Whether what clients send over connections that begin from now on stays here, until it is delivered.
    pub fn set_late(&self, late: bool) {
        self.shared.late.send_replace(late);
    }

    /// Whether a client has sent this over such a connection.
    pub fn keeps(&self, text: &str) -> bool {
        lock(&self.shared.late_bytes).windows(text.len()).any(|bytes| bytes == text.as_bytes())
    }

    /// Delivers what was kept to the server, though its client is gone; waits until it has answered so many bytes.
    pub async fn deliver(&self, answer: u64) {
        self.shared.delivering.send_replace(true);
        drop(self.shared.answered.subscribe().wait_for(|bytes| *bytes >= answer).await);
    }

    /// Cuts every connection there is.
    pub fn cut_all(&self) {
        self.shared.cut_all.send_modify(|times| *times += 1);
    }

    /// How many were cut.
    pub fn cuts(&self) -> usize {
        lock(&self.shared.cuts).values().sum()
    }

    /// How many were cut in which way.
    pub fn report(&self) -> String {
        let cuts = lock(&self.shared.cuts);
        let lines: Vec<_> = cuts.iter().map(|((from, kind), number)| format!("{number} {kind:?} after bytes of the {from:?}")).collect();
        format!("{} cuts ({})", cuts.values().sum::<usize>(), lines.join(", "))
    }
}

impl Shared {
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut cut_all = self.cut_all.subscribe();
        let upstream = lock(&self.upstream).clone();
        let mut server = TcpStream::connect(upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        if *self.late.borrow() {
            return self.keep(client, server).await;
        }
        let cut = self.cutting.borrow().then(|| self.choose());
        let (from_client, from_server) = cut.map_or((u64::MAX, u64::MAX), |cut| (cut.client_bytes, cut.server_bytes));
        let ended = {
            let (client_reads, client_writes) = client.split();
            let (server_reads, server_writes) = server.split();
            let half = cut.is_some_and(|cut| cut.kind == Kind::HalfClose);
            let up = self.forward(client_reads, server_writes, (from_client, half), From::Client);
            let down = self.forward(server_reads, client_writes, (from_server, half), From::Server);
            tokio::pin!(up, down);
            let (first, from) = tokio::select! {
                _ = cut_all.changed() => return Ok(()),
                ended = &mut up => (ended?, From::Client),
                ended = &mut down => (ended?, From::Server),
            };
            // Where one side has nothing more to say, the other may.
            if half || matches!(first, Ended::BySender) {
                // However that ends: it is for what still is on its way.
                let other = async { if from == From::Client { down.await } else { up.await } };
                drop(timeout(HALF_OPEN, other).await);
            }
            (first, from)
        };
        if let ((Ended::ByCut, from), Some(cut)) = (ended, cut) {
            *lock(&self.cuts).entry((from, cut.kind)).or_default() += 1;
            if cut.kind == Kind::Reset {
                client.set_zero_linger()?;
                server.set_zero_linger()?;
            }
        }
        Ok(())
    }

    /// Keeps what the client sends until it is cut off, and delivers it when told to.
    async fn keep(&self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        let mut cut_all = self.cut_all.subscribe();
        let mut buffer = vec![0; 16 << 10];
        let mut kept = Vec::new();
        loop {
            let read = tokio::select! {
                _ = cut_all.changed() => break,
                read = client.read(&mut buffer) => read?,
            };
            if read == 0 {
                break;
            }
            kept.extend_from_slice(&buffer[..read]);
            lock(&self.late_bytes).extend_from_slice(&buffer[..read]);
        }
        drop(client);
        self.delivering.subscribe().wait_for(|delivering| *delivering).await.map_err(io::Error::other)?;
        server.write_all(&kept).await?;
        loop {
            let read = server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            self.answered.send_modify(|bytes| *bytes += read as u64);
        }
    }

    fn choose(&self) -> Cut {
        let mut chance = lock(&self.chance);
        let (fewest, most) = BYTES;
        let mut bytes = || (fewest.ln() + chance.f64() * (most / fewest).ln()).exp() as u64;
        let (client_bytes, server_bytes) = (bytes(), bytes());
        let kind = [Kind::Close, Kind::Reset, Kind::HalfClose][chance.usize(..3)];
        Cut { client_bytes, server_bytes, kind }
    }

    /// Forwards bytes until the sender has no more, or so many were forwarded; may then tell the receiver that they end.
    async fn forward(&self, mut reads: ReadHalf<'_>, mut writes: WriteHalf<'_>, cut: (u64, bool), from: From) -> io::Result<Ended> {
        let (mut left, half) = cut;
        let mut holding = self.holding.subscribe();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = reads.read(&mut buffer).await?;
            if read == 0 {
                writes.shutdown().await?;
                return Ok(Ended::BySender);
            }
            if from == From::Server && *holding.borrow() {
                self.held.fetch_add(read as u64, Ordering::Relaxed);
                holding.wait_for(|holding| !holding).await.map_err(io::Error::other)?;
            }
            let bytes = left.min(read as u64) as usize;
            writes.write_all(&buffer[..bytes]).await?;
            left -= bytes as u64;
            if left == 0 {
                if half {
                    writes.shutdown().await?;
                }
                return Ok(Ended::ByCut);
            }
        }
    }
}

/// How one direction ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    BySender,
    ByCut,
}

fn of_url(server: &str) -> String {
    server.trim_start_matches("http://").to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
