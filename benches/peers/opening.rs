//! How a connection begins before it carries requests: in clear or in TLS, at once or as MySQL does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::either::Either;

use crate::authority::NAME;
use crate::server::REQUEST;
use crate::words::{GREETING, SSL_REQUEST, greeting, log_in, ok};

/// A connection, in clear or in TLS.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A client's beginning.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// With a log-in, and TLS inside of that.
    pub logs_in: bool,
    pub tls: Option<Arc<ClientConfig>>,
}

impl Opening {
    /// Connects, as far as the first request.
    pub async fn open(&self, address: SocketAddr) -> io::Result<Stream> {
        let mut stream = connect(address).await?;
        if self.logs_in {
            stream.read_exact(&mut [0; GREETING]).await?;
        }
        let mut stream = match &self.tls {
            None => Either::Left(stream),
            Some(tls) => {
                if self.logs_in {
                    stream.write_all(&SSL_REQUEST).await?;
                }
                let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
                Either::Right(Box::new(stream.into()))
            }
        };
        if self.logs_in {
            let sequence = if self.tls.is_some() { 2 } else { 1 };
            stream.write_all(&log_in(sequence, self.tls.is_some())).await?;
            stream.flush().await?;
            expect_ok(&mut stream, sequence + 1).await?;
        }
        Ok(stream)
    }
}

async fn expect_ok(stream: &mut (impl AsyncRead + Unpin), sequence: u8) -> io::Result<()> {
    let mut said = ok(0);
    stream.read_exact(&mut said).await?;
    match said == ok(sequence) {
        true => Ok(()),
        false => Err(io::Error::other(format!("no OK: {}", String::from_utf8_lossy(&said)))),
    }
}

/// A server's beginning.
#[derive(Debug, Clone, Default)]
pub struct Welcome {
    /// It greets, and waits for a log-in; TLS is inside of that.
    pub greets: bool,
    pub tls: Option<Arc<ServerConfig>>,
}

impl Welcome {
    /// Takes a client as far as its first request.
    pub async fn receive(&self, mut stream: TcpStream) -> io::Result<Stream> {
        if self.greets {
            stream.write_all(&greeting(self.tls.is_some())).await?;
        }
        let mut stream = match &self.tls {
            None => Either::Left(stream),
            Some(tls) => {
                if self.greets {
                    stream.read_exact(&mut [0; SSL_REQUEST.len()]).await?;
                }
                let stream = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await?;
                Either::Right(Box::new(stream.into()))
            }
        };
        if self.greets {
            stream.read_exact(&mut [0; REQUEST]).await?;
            stream.write_all(&ok(if self.tls.is_some() { 3 } else { 2 })).await?;
            stream.flush().await?;
        }
        Ok(stream)
    }
}

/// Connects, without a delay for small writes.
#[expect(clippy::disallowed_methods, reason = "a load has a deadline as a whole")]
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
