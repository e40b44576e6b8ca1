//! One side of a session: a socket, or TLS over one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::secure::Secure;
use super::stream::Stream;

/// What a session reads from and writes to. The socket below is asked for everything else.
#[derive(Debug)]
pub enum Transport {
    /// Bytes as they are.
    Plain(Stream),
    /// TLS that ends here.
    Secure(Box<Secure>),
}

impl Transport {
    /// The socket itself.
    pub fn socket(&self) -> &Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(secure) => secure.socket(),
        }
    }

    /// The socket itself; what TLS has not sent is lost.
    pub fn into_socket(self) -> Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(secure) => secure.into_socket(),
        }
    }

    /// The TLS that ends here, to ask what was agreed.
    pub fn tls(&self) -> Option<&Connection> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => Some(secure.tls()),
        }
    }

    /// Whether TLS ends here.
    pub fn is_secure(&self) -> bool {
        matches!(self, Self::Secure(_))
    }

    /// Whether the socket has taken everything that was written.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Secure(secure) => secure.is_flushed(),
        }
    }

    /// Whether the other side has ended TLS, and not only the connection.
    pub fn has_said_all(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(secure) => secure.has_said_all(),
        }
    }

    /// Ends TLS, which goes before a FIN.
    pub fn poll_say_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Secure(secure) => secure.poll_say_all(cx),
        }
    }
}

impl From<Stream> for Transport {
    fn from(stream: Stream) -> Self {
        Self::Plain(stream)
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream.into())
    }
}

impl From<UnixStream> for Transport {
    fn from(stream: UnixStream) -> Self {
        Self::Plain(stream.into())
    }
}

impl From<Secure> for Transport {
    fn from(secure: Secure) -> Self {
        Self::Secure(Box::new(secure))
    }
}

/// Does the same with either kind.
macro_rules! either {
    ($self:expr, $stream:ident => $act:expr) => {
        match $self.get_mut() {
            Transport::Plain($stream) => $act,
            Transport::Secure($stream) => $act,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
