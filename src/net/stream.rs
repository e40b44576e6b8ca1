//! A connection, over TCP or a Unix socket, with what a session needs of either.
//!
//! A Unix socket is not a TCP socket with another address:
//! - What is written is in the peer's queue at once, and stays there when this end is closed. There
//!   is nothing on the way that could be lost, and no kernel between that could fall silent.
//! - Nothing is like an RST. A close with bytes of the peer unread gives it `ECONNRESET` behind what
//!   it was sent; every other close is an EOF to it.
//! - The kernel tells when the peer has closed for good, not only that it will say no more.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

use super::socket::{TcpInfo, unread_by_peer};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// What was written and the other side has not taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untaken {
    /// Segments that the peer's kernel has not acknowledged, and bytes that were not sent.
    Tcp {
        /// Segments.
        unacked: u32,
        /// Bytes.
        unsent: u32,
    },
    /// What the peer's program has not read.
    Unix {
        /// Bytes of memory, somewhat more than those written.
        unread: u32,
    },
}

impl Untaken {
    /// Whether closing could lose something now.
    pub fn is_at_risk(self) -> bool {
        match self {
            Self::Tcp { unacked, unsent } => unacked > 0 || unsent > 0,
            Self::Unix { .. } => false,
        }
    }
}

/// Does the same with either kind.
macro_rules! either {
    ($self:expr, $stream:ident => $act:expr) => {
        match $self {
            Stream::Tcp($stream) => $act,
            Stream::Unix($stream) => $act,
        }
    };
}

/// A peer whose host acknowledges nothing any more.
#[derive(Debug, Error)]
#[error("it acknowledges nothing")]
pub struct Vanished;

impl Vanished {
    /// `Err` as [`Stream::has_vanished`] has it.
    pub fn check(peer: &Stream, within: Duration) -> io::Result<()> {
        if peer.has_vanished(within) { Err(io::Error::other(Self)) } else { Ok(()) }
    }
}

impl Stream {
    /// The address of this end, of a TCP connection.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Waits for a byte and leaves it where it is; 0 is the end.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(buffer).await,
            Self::Unix(stream) => {
                stream.async_io(Interest::READABLE, || peek_now(stream, buffer)).await
            }
        }
    }

    /// As [`Self::peek`]. As with reading, only the task that polled last is woken.
    pub fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let stream = match self {
            Self::Tcp(stream) => return stream.poll_peek(cx, buffer),
            Self::Unix(stream) => stream,
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let peeked = stream
                .try_io(Interest::READABLE, || peek_now(stream, buffer.initialize_unfilled()));
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }

    /// Waits until the socket is ready for one of these.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, stream => stream.ready(interest).await)
    }

    /// Waits until the socket may take bytes.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(cx))
    }

    /// Does something with the socket if it is ready for it; when that would block it no longer is.
    pub fn try_io<T>(
        &self,
        interest: Interest,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        either!(self, stream => stream.try_io(interest, act))
    }

    /// The error that the socket met, told once.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        either!(self, stream => stream.take_error())
    }

    /// Makes the close an RST, which throws the send queue away. To a Unix peer it stays a close.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // Fails only on a socket that is gone already.
            let _ = stream.set_zero_linger();
        }
    }

    /// The kernel's view of a TCP connection.
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        match self {
            Self::Tcp(stream) => TcpInfo::of(stream).ok(),
            Self::Unix(_) => None,
        }
    }

    /// Whether the peer's host has owed an acknowledgement for as long as `within`: it has vanished.
    pub fn has_vanished(&self, within: Duration) -> bool {
        self.tcp_info().is_some_and(|info| info.owes_an_answer() && info.silence() >= within)
    }

    /// What the peer has not taken yet; nothing when the kernel does not tell.
    pub fn untaken(&self) -> Option<Untaken> {
        match self {
            Self::Tcp(stream) => {
                let info = TcpInfo::of(stream).ok()?;
                Some(Untaken::Tcp { unacked: info.unacked, unsent: info.notsent_bytes })
            }
            Self::Unix(stream) => Some(Untaken::Unix { unread: unread_by_peer(stream).ok()? }),
        }
    }
}

fn peek_now(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(stream, buffer, RecvFlags::PEEK)?.1)
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        chunks: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, chunks))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (Stream, Stream) {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), other.into())
    }

    async fn poll_peek(stream: &Stream) -> io::Result<usize> {
        poll_fn(|cx| stream.poll_peek(cx, &mut ReadBuf::new(&mut [0; 8]))).await
    }

    #[tokio::test]
    async fn a_peek_waits_for_bytes_and_leaves_them() {
        let (mut here, mut there) = pair();
        let (waited, ()) = tokio::join!(poll_peek(&here), async {
            tokio::task::yield_now().await;
            there.write_all(b"hello").await.unwrap();
        });
        assert_eq!(waited.unwrap(), 5);
        assert_eq!(here.peek(&mut [0; 2]).await.unwrap(), 2);
        drop(there);
        let mut read = Vec::new();
        here.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"hello");
        assert_eq!((poll_peek(&here).await.unwrap(), here.peek(&mut [0]).await.unwrap()), (0, 0));
    }

    #[tokio::test]
    async fn what_a_unix_peer_has_not_read_is_counted_and_not_at_risk() {
        let (mut here, mut there) = pair();
        assert_eq!(here.untaken(), Some(Untaken::Unix { unread: 0 }));
        here.write_all(b"hello").await.unwrap();
        let untaken = here.untaken().unwrap();
        assert!(untaken != Untaken::Unix { unread: 0 } && !untaken.is_at_risk(), "{untaken:?}");
        there.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(here.untaken(), Some(Untaken::Unix { unread: 0 }));
    }

    #[tokio::test]
    async fn a_close_over_unread_bytes_is_a_reset_behind_the_last_word() {
        let (mut here, mut there) = pair();
        there.write_all(b"unread").await.unwrap();
        here.write_all(b"last word").await.unwrap();
        drop(here);
        let mut heard = Vec::new();
        let end = there.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!(
            (heard.as_slice(), end.kind()),
            (&b"last word"[..], io::ErrorKind::ConnectionReset)
        );
    }
}
