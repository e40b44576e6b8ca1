//! TLS over a connected socket: records in and out, with nothing kept while nothing moves.
//!
//! Written on rustls' own connection. What one read of the socket brings is decrypted at once, and
//! nothing is encrypted while the socket has not taken what was: a connection holds the rest of one
//! record, and the ciphertext of one write.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::Connection;
use rustls::ProtocolVersion::TLSv1_2;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::stream::{Stream, Vanished};

/// Ciphertext of one read. With the rest of a record from before it makes no more plaintext than a
/// caller with room for 128 KiB takes.
const BUFFER_LEN: usize = 112 * 1024;

/// Ciphertext that rustls has room for while it waits for more.
const KEPT: usize = 4 * 1024;

/// Plaintext of a record.
const RECORD_LEN: u64 = 16 * 1024;
/// TLS 1.2 cannot change its key, and rustls throws away what is written after 2^24 records with one
/// (`check_pre_encrypt_action`; RFC 8446, section 5.5). A few are left for alerts.
const MOST_RECORDS: u64 = (1 << 24) - 8;

thread_local! {
    /// Holds bytes only within one poll, so one serves all connections of a thread.
    static CIPHERTEXT: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_LEN].into());
}

/// A socket and the TLS connection over it.
#[derive(Debug)]
pub struct Secure {
    socket: Stream,
    tls: Connection,
    /// Read, but not decrypted yet: the caller had no room for so much.
    unread: Vec<u8>,
    /// More was read at once than fits into what rustls keeps while idle.
    has_grown: bool,
    /// The other side will say no more.
    heard_all: bool,
    /// It has said so itself.
    was_told: bool,
    /// The other side was told that no more will come.
    said_all: bool,
    /// Records, at least.
    written: u64,
}

impl Secure {
    /// Shakes hands, as the client or the server that `tls` was made for.
    ///
    /// `Err` holds a [`rustls::Error`] if the other side did something wrong; it was sent an alert. It
    /// holds [`Vanished`] if the other host takes longer than `acknowledge` to acknowledge what it is
    /// sent; `None`: it may take as long as it likes.
    pub async fn shake_hands(
        socket: Stream,
        tls: impl Into<Connection>,
        acknowledge: Option<Duration>,
    ) -> io::Result<Self> {
        let tls = tls.into();
        let mut secure = Self {
            socket,
            tls,
            unread: Vec::new(),
            has_grown: false,
            heard_all: false,
            was_told: false,
            said_all: false,
            written: 0,
        };
        if let Some(within) = acknowledge {
            match timeout(within, poll_fn(|cx| secure.poll_handshake(cx))).await {
                Ok(shaken) => return shaken.map(|()| secure),
                Err(_) => Vanished::check(&secure.socket, within)?,
            }
        }
        poll_fn(|cx| secure.poll_handshake(cx)).await?;
        Ok(secure)
    }

    /// To ask what was agreed.
    pub fn tls(&self) -> &Connection {
        &self.tls
    }

    /// What is below.
    pub fn socket(&self) -> &Stream {
        &self.socket
    }

    /// What is below, without TLS.
    pub fn into_socket(self) -> Stream {
        self.socket
    }

    /// Whether the socket has taken everything.
    pub fn is_flushed(&self) -> bool {
        !self.tls.wants_write()
    }

    /// Whether the other side has said that no more will come, and did not just close.
    pub fn has_said_all(&self) -> bool {
        self.was_told
    }

    /// Tells the other side that no more will come: the `close_notify` that goes before a FIN.
    pub fn poll_say_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_all {
            self.said_all = true;
            self.tls.send_close_notify();
        }
        self.poll_send(cx)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.heard_all {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Waits for ciphertext and decrypts it. An end without `close_notify` counts as one: packets
    /// say themselves how long they are, and many clients and servers just close.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        plaintext: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        CIPHERTEXT.with_borrow_mut(|buffer| {
            let mut chunk = ReadBuf::new(buffer);
            let read = Pin::new(&mut self.socket).poll_read(cx, &mut chunk);
            if read.is_pending() && self.has_grown {
                self.shrink();
            }
            ready!(read)?;
            self.has_grown |= chunk.filled().len() > KEPT;
            self.heard_all = chunk.filled().is_empty();
            Poll::Ready(self.decrypt(cx, chunk.filled(), plaintext))
        })
    }

    fn decrypt(
        &mut self,
        cx: &mut Context<'_>,
        mut ciphertext: &[u8],
        plaintext: &mut ReadBuf<'_>,
    ) -> io::Result<()> {
        while !ciphertext.is_empty() && !self.heard_all {
            if plaintext.remaining() == 0 && !self.tls.is_handshaking() {
                self.unread = ciphertext.to_vec();
                break;
            }
            self.tls.read_tls(&mut ciphertext)?;
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    // The alert. A peer that does not take it gets none.
                    let _ = self.poll_send(cx);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            self.was_told = state.peer_has_closed();
            self.heard_all = self.was_told;
            self.take_decrypted(plaintext)?;
        }
        Ok(())
    }

    /// Makes rustls give back what it has needed for a burst, which it does before a read.
    fn shrink(&mut self) {
        self.has_grown = false;
        // Nothing is there to be read, which it takes for what it is.
        let _ = self.tls.read_tls(&mut Nothing);
    }

    fn take_decrypted(&mut self, plaintext: &mut ReadBuf<'_>) -> io::Result<()> {
        while plaintext.remaining() > 0 {
            match self.tls.reader().read(plaintext.initialize_unfilled()) {
                Ok(0) => break,
                Ok(count) => plaintext.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Now { socket: &mut self.socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Secure {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plaintext: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = plaintext.filled().len();
        this.take_decrypted(plaintext)?;
        while plaintext.filled().len() == before && plaintext.remaining() > 0 {
            if !this.unread.is_empty() {
                let unread = take(&mut this.unread);
                this.decrypt(cx, &unread, plaintext)?;
            } else if this.heard_all {
                break;
            } else {
                ready!(this.poll_receive(cx, plaintext))?;
            }
            // TLS has words of its own. What the socket does not take goes with the next write, which
            // also meets the error.
            let _ = this.poll_send(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secure {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plaintext: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if this.written >= MOST_RECORDS && this.tls.protocol_version() == Some(TLSv1_2) {
            return Poll::Ready(Err(io::Error::other("TLS 1.2 has used up its key")));
        }
        let taken = this.tls.writer().write(plaintext)?;
        this.written += 1 + taken as u64 / RECORD_LEN;
        // What is left is sent before the next is taken.
        if let Poll::Ready(Err(error)) = this.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_say_all(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// A socket of which nothing can be read now.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// A socket as rustls writes to it: what would wait fails, and the task is woken when it need not.
struct Now<'a, 'c> {
    socket: &'a mut Stream,
    cx: &'a mut Context<'c>,
}

impl Write for Now<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, chunks))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
