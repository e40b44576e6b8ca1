//! An embedded MySQL-protocol server: the demo's database, and the quick upstream of the tests.
//!
//! It lets every user in with every password, offers no TLS, keeps no data and binds where it is
//! told: it is for loopback. What it understands of SQL is what its ERR 1064 names.
//!
//! Two things it leaves alone: as with TiDB a client may take for ever to log in, and one that
//! vanishes during a `SLEEP` is noticed when the sleep is over.
//!
//! Background tasks: one that accepts, and one per session, all on the runtime that started it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use super::session::{Identity, Session};

/// The version that every backend reports: TiDB's form, for the clients that look for it.
pub const VERSION: &str = "8.0.11-TiDB-v8.5.3-tidegate-demo";
/// How many connections may wait to be accepted (the kernel's `somaxconn` caps it).
const BACKLOG: u32 = 4096;
/// Pause after a failed accept, so that a lack of file descriptors is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A running backend. Dropping it ends it, less abruptly than [`kill`](Self::kill).
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    killed: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Backend {
    /// Listens at `address` (port 0 picks one) and serves from the current runtime.
    pub async fn start(address: SocketAddr, name: &str) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A killed backend can be started again although its port has sessions in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let identity =
            Identity { name: name.to_owned(), version: VERSION.to_owned(), port: address.port() };
        let (killed, watched) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, Arc::new(identity), watched));
        Ok(Self { address, killed, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and resets every session (RST, nothing more is sent). When it returns, new
    /// connections are refused and the address can be bound again.
    pub async fn kill(mut self) {
        self.killed.send_replace(true);
        // An error would mean that the task panicked; its sockets are closed then too.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, identity: Arc<Identity>, mut killed: watch::Receiver<bool>) {
    let mut sessions = JoinSet::new();
    let mut connection_id = 0u32;
    loop {
        tokio::select! {
            biased;
            _ = killed.changed() => break,
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connection_id = connection_id.wrapping_add(1);
                    let (identity, killed) = (identity.clone(), killed.clone());
                    sessions.spawn(serve(stream, peer, identity, connection_id, killed));
                }
                Err(error) => {
                    debug!(%error, "demo backend: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    identity: Arc<Identity>,
    connection_id: u32,
    mut killed: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "demo backend: TCP_NODELAY failed");
    }
    tokio::select! {
        biased;
        _ = killed.changed() => {}
        ended = Session::new(&mut stream, peer, &identity, connection_id).run() => {
            if let Err(error) = ended {
                debug!(%peer, connection_id, %error, "demo backend: session ended");
            }
            return;
        }
    }
    // Closing with a linger time of zero sends RST instead of FIN.
    if let Err(error) = stream.set_zero_linger() {
        debug!(%peer, %error, "demo backend: SO_LINGER failed");
    }
}
