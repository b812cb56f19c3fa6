//! Connections are spread over the cores: each is served by the one thread of its core, from its first byte to its last.
//!
//! A call then never changes threads between the socket and its handler, and no thread steals what another is about to do: with
//! many small calls at once, waking each other costs a runtime of several threads more than the calls themselves. What blocks or
//! takes long is done elsewhere (`workers`), so whoever shares a core with a large call does not wait for it.

use std::io;
use std::net;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::{Connected, Router};

/// Accepted connections that wait for a core at most.
const WAITING: usize = 64;
/// After an error that concerns no single connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The threads that serve connections, one a core, and the task that gives them their connections.
pub struct Cores {
    accepting: AbortOnDropHandle<()>,
    /// What each core's server came to.
    ended: Vec<oneshot::Receiver<Result<(), tonic::transport::Error>>>,
    /// Cancelled when they are to serve what they have to its end.
    close: CancellationToken,
    /// Cancelled when they are to drop it.
    abort: DropGuard,
}

/// The accepting side of a core.
struct Core {
    connections: mpsc::Sender<net::TcpStream>,
    /// Connections that it has.
    open: Arc<AtomicUsize>,
}

impl Cores {
    /// Serves these services on the connections that the listener takes. To be called on a runtime, which takes them.
    ///
    /// # Errors
    /// Where the system has no more threads to give.
    pub fn serve(listener: TcpListener, services: &Router) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let (close, abort) = (CancellationToken::new(), CancellationToken::new());
        let mut cores = Vec::with_capacity(count);
        let mut ended = Vec::with_capacity(count);
        for number in 0..count {
            let (connections, accepted) = mpsc::channel(WAITING);
            let (end, core_ended) = oneshot::channel();
            let open = Arc::new(AtomicUsize::new(0));
            let (services, close, abort, counted) = (services.clone(), close.clone(), abort.clone(), Arc::clone(&open));
            let runtime = Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new().name(format!("dateline-core-{number}")).spawn(move || {
                let accepted = ReceiverStream::new(accepted).map(move |stream| Connection::new(stream, Arc::clone(&counted)));
                let serving = services.serve_with_incoming_shutdown(accepted, close.cancelled_owned());
                let served = runtime.block_on(abort.run_until_cancelled(serving)).unwrap_or(Ok(()));
                runtime.shutdown_background();
                // Where nobody waits for it, the process is about to end.
                drop(end.send(served));
            })?;
            cores.push(Core { connections, open });
            ended.push(core_ended);
        }
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, cores)));
        Ok(Self { accepting, ended, close, abort: abort.drop_guard() })
    }

    /// Returns when no connection is taken any more, because a core has ended: to be waited for, but never to be seen.
    pub async fn ended(&mut self) {
        // How the task ended changes nothing: it was to go on.
        drop((&mut self.accepting).await);
    }

    /// Takes no more connections, and has those that there are closed once their calls are answered: after this time, whatever they
    /// are at.
    ///
    /// # Errors
    /// Where a core ended before it was told to.
    pub async fn close(self, patience: Duration) -> Result<(), String> {
        let Self { accepting, ended, close, abort } = self;
        close.cancel();
        drop(accepting);
        let mut all_ended = std::pin::pin!(async {
            for core in ended {
                core.await.map_err(|_| "a thread panicked".to_owned())?.map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        if let Ok(ended) = timeout(patience, &mut all_ended).await {
            return ended;
        }
        drop(abort);
        // To drop what is left takes no time, unless a thread hangs in it.
        timeout(patience, all_ended).await.unwrap_or(Ok(()))
    }
}

/// Takes connections, and gives each to the core that has the fewest, until a core has ended.
async fn accept(listener: TcpListener, cores: Vec<Core>) {
    loop {
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken at present");
                sleep(ACCEPT_PAUSE).await; // ok: nobody tells when there are file descriptors again
                continue;
            }
        };
        // Small answers (acknowledgements, window updates) leave at once instead of waiting for the client's delayed ACK, 40 ms.
        let connection = connection.set_nodelay(true).and_then(|()| connection.into_std());
        // A client that has gone already has nothing to set.
        let Ok(connection) = connection else { continue };
        let Some(core) = least_busy(&cores) else { return };
        core.open.fetch_add(1, Ordering::Relaxed);
        if core.connections.send(connection).await.is_err() {
            return;
        }
    }
}

fn least_busy(cores: &[Core]) -> Option<&Core> {
    cores.iter().min_by_key(|core| core.open.load(Ordering::Relaxed))
}

/// Whether the next connection may well be taken.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A connection, which counts as one of its core for as long as it lives.
struct Connection {
    stream: TcpStream,
    open: Arc<AtomicUsize>,
}

impl Connection {
    fn new(stream: net::TcpStream, open: Arc<AtomicUsize>) -> io::Result<Self> {
        match TcpStream::from_std(stream) {
            Ok(stream) => Ok(Self { stream, open }),
            Err(error) => {
                open.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tonic::transport::Server;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_connection_goes_to_the_core_that_has_the_fewest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let core = || Core { connections: mpsc::channel(WAITING).0, open: Arc::default() };
        let cores: Vec<_> = (0..3).map(|_| core()).collect();
        let mut connections = Vec::new();
        for _ in 0..6 {
            let client = net::TcpStream::connect(address).unwrap();
            client.set_nonblocking(true).unwrap();
            let open = Arc::clone(&least_busy(&cores).unwrap().open);
            open.fetch_add(1, Ordering::Relaxed);
            connections.push(Connection::new(client, open).unwrap());
        }
        let counts = || cores.iter().map(|core| core.open.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(counts(), [2, 2, 2]);
        drop(connections.remove(1));
        assert_eq!(counts(), [2, 1, 2]);
        assert!(std::ptr::eq(least_busy(&cores).unwrap(), &raw const cores[1]));
    }

    #[tokio::test]
    async fn every_core_serves_and_what_does_not_end_is_dropped_in_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let cores = Cores::serve(listener, &Server::builder().add_service(health)).unwrap();
        let count = cores.ended.len();
        // Whoever connects and says nothing has a connection that would never end.
        let silent: Vec<_> = (0..count).map(|_| net::TcpStream::connect(address).unwrap()).collect();
        for _ in 0..2 * count {
            let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
            let request = tonic_health::pb::HealthCheckRequest::default();
            tonic_health::pb::health_client::HealthClient::new(channel).check(request).await.unwrap();
        }
        assert_eq!(timeout(PATIENCE, cores.close(Duration::from_millis(50))).await.unwrap(), Ok(()));
        for mut connection in silent {
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            // A goodbye may come before the end.
            let ended = connection.read_to_end(&mut Vec::new()).err().map(|error| error.kind());
            assert!(matches!(ended, None | Some(io::ErrorKind::ConnectionReset)), "{ended:?}");
        }
        assert!(net::TcpStream::connect(address).is_err(), "nothing listens any more");
    }
}
