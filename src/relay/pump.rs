//! One direction of a session: reads, writes, and remembers what could not be written yet.
//!
//! Small messages are copied, which takes the fewest calls. When as much waits as one read can take,
//! the direction is bulk and goes through a pipe ([`pipe`](super::pipe)) until no more waits.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::commands::Commands;
use super::opening::Heard;
use super::pipe::{self, Pipe};
use crate::config::Splice;
use crate::metrics::Bytes;
use crate::net::stream::Stream;
use crate::net::transport::Transport;

/// Bytes of one read. Bigger ones do not move more per second; smaller ones cost more calls.
const PLAIN_LEN: usize = 64 * 1024;
/// As much plaintext: here bigger ones do, by a fifth.
const TLS_LEN: usize = 2 * PLAIN_LEN;

thread_local! {
    /// Holds bytes only within one poll, so one serves all sessions of a thread.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; TLS_LEN].into());
}

/// Which of a direction's two sockets failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// The one that is read.
    Reader(io::Error),
    /// The one that is written.
    Writer(io::Error),
}

/// How bytes may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From socket to socket.
    Plain(Splice),
    /// Through TLS that ends here, on one side or both.
    Tls,
}

/// Who looks at what is read.
#[derive(Debug)]
pub(super) enum Tap<'t> {
    /// Nobody.
    Nobody,
    /// The beginning is kept.
    Keep(&'t mut Heard),
    /// The direction stops before a command.
    Commands(&'t mut Commands),
}

impl Tap<'_> {
    fn has_stopped(&self) -> bool {
        matches!(self, Self::Commands(commands) if commands.has_stopped())
    }
}

/// The state of one direction. Idle, it owns nothing on the heap and no pipe.
#[derive(Debug)]
pub(super) struct Pump {
    /// Read, but not accepted by the writer's socket yet; while there is any, nothing is read.
    rest: Vec<u8>,
    /// How much of `rest` is written.
    written: usize,
    /// What `rest` is for copied bytes; only one of the two holds bytes.
    pipe: Option<Pipe>,
    bytes: u64,
    way: Way,
    /// Whether the last read filled the buffer, and the source is not known to be empty since.
    bulk: bool,
    ended: bool,
}

impl Pump {
    pub fn new(way: Way) -> Self {
        Self { rest: Vec::new(), written: 0, pipe: None, bytes: 0, way, bulk: false, ended: false }
    }

    /// Whether everything that was read is written.
    pub fn is_flushed(&self) -> bool {
        self.rest.is_empty() && self.pipe.as_ref().is_none_or(Pipe::is_empty)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Moves bytes until the source is empty, the sink is full, or `moves` are used up (then the
    /// caller wakes the task). `Ready(Ok)`: the source has ended and all of it is written.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        moved: &Bytes,
        moves: &mut u32,
        mut tap: Tap<'_>,
    ) -> Poll<Result<(), Broken>> {
        ready!(self.flush(cx, to, moved))?;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        BUFFER.with_borrow_mut(|buffer| {
            let room = if self.way == Way::Tls { TLS_LEN } else { PLAIN_LEN };
            while *moves > 0 && !tap.has_stopped() {
                *moves -= 1;
                if self.bulk && self.fill(from.socket()).map_err(Broken::Reader)? {
                    ready!(self.drain(cx, to.socket(), moved))?;
                    continue;
                }
                let mut chunk = ReadBuf::new(&mut buffer[..room]);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut chunk)).map_err(Broken::Reader)?;
                self.ended = chunk.filled().is_empty();
                // What is spliced is seen by nobody.
                self.bulk = self.way == Way::Plain(Splice::Auto)
                    && chunk.remaining() == 0
                    && matches!(tap, Tap::Nobody);
                let bytes = match &mut tap {
                    Tap::Nobody => Cow::Borrowed(chunk.filled()),
                    Tap::Keep(kept) => {
                        kept.add(chunk.filled());
                        Cow::Borrowed(chunk.filled())
                    }
                    Tap::Commands(commands) => commands.pass(chunk.filled()),
                };
                let written = self.write(cx, to, &bytes, moved)?;
                if written < bytes.len() {
                    self.rest = bytes[written..].to_vec();
                    return Poll::Pending;
                }
                if self.ended {
                    return Pin::new(to).poll_flush(cx).map_err(Broken::Writer);
                }
            }
            Poll::Pending
        })
    }

    fn flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Transport,
        moved: &Bytes,
    ) -> Poll<Result<(), Broken>> {
        if self.rest.is_empty() {
            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::Writer)?;
            return self.drain(cx, to.socket(), moved);
        }
        let (rest, before) = (take(&mut self.rest), take(&mut self.written));
        let written = before + self.write(cx, to, &rest[before..], moved)?;
        if written < rest.len() {
            (self.rest, self.written) = (rest, written);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the socket takes now; when that is not all, the task will be woken.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Transport,
        bytes: &[u8],
        moved: &Bytes,
    ) -> Result<usize, Broken> {
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut *to).poll_write(cx, &bytes[written..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    written += count;
                    self.bytes += count as u64;
                    match self.way {
                        Way::Plain(_) => moved.copied.inc_by(count as u64),
                        Way::Tls => moved.tls.inc_by(count as u64),
                    }
                }
                Poll::Ready(Err(error)) => return Err(Broken::Writer(error)),
            }
        }
        Ok(written)
    }

    /// Fills the pipe, which is empty. False: the next move is a copy.
    ///
    /// A splice that moves nothing has not seen the end: urgent data stops it before the bytes
    /// behind (tcp_read_sock of net/ipv4/tcp.c). So whether the source is empty or has ended is left
    /// to the read that follows, and readiness stays as it is until then.
    fn fill(&mut self, from: &Stream) -> io::Result<bool> {
        let Some(mut pipe) = self.pipe.take().or_else(Pipe::take) else {
            self.bulk = false;
            return Ok(false);
        };
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(()) if !pipe.is_empty() => {
                self.pipe = Some(pipe);
                return Ok(true);
            }
            Ok(()) => pipe.give_back(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => pipe.give_back(),
            Err(error) if pipe::refused(&error) => {}
            Err(error) => return Err(error),
        }
        self.bulk = false;
        Ok(false)
    }

    /// Empties the pipe, if there is one.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &Stream,
        moved: &Bytes,
    ) -> Poll<Result<(), Broken>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        while !pipe.is_empty() {
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Ok(count) => {
                    self.bytes += count as u64;
                    moved.spliced.inc_by(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(to.poll_write_ready(cx)).map_err(Broken::Writer)?;
                }
                Err(error) => return Poll::Ready(Err(Broken::Writer(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}
