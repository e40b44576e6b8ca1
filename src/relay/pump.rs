//! One direction of a session: reads, writes, and remembers what could not be written yet.

use std::cell::RefCell;
use std::io;
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::opening::keep;

/// Bytes of one read. Bigger ones do not move more per second; smaller ones cost more calls.
const BUFFER_LEN: usize = 64 * 1024;

thread_local! {
    /// Holds bytes only within one poll, so one serves all sessions of a thread.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_LEN].into());
}

/// Which of a direction's two sockets failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// The one that is read.
    Reader(io::Error),
    /// The one that is written.
    Writer(io::Error),
}

/// The state of one direction. Idle, it owns nothing on the heap.
#[derive(Debug, Default)]
pub(super) struct Pump {
    /// Read, but not accepted by the writer's socket yet; while there is any, nothing is read.
    rest: Vec<u8>,
    /// How much of `rest` is written.
    written: usize,
    bytes: u64,
    ended: bool,
}

impl Pump {
    /// Whether everything that was read is written.
    pub fn is_flushed(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Moves bytes until the source is empty, the sink is full, or `moves` are used up (then the
    /// caller wakes the task). `Ready(Ok)`: the source has ended and all of it is written. The
    /// beginning of what is read goes to `kept` as well.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        moved: &IntCounter,
        moves: &mut u32,
        mut kept: Option<&mut Vec<u8>>,
    ) -> Poll<Result<(), Broken>> {
        ready!(self.flush(cx, to, moved))?;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        BUFFER.with_borrow_mut(|buffer| {
            while *moves > 0 {
                *moves -= 1;
                let mut chunk = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut chunk)).map_err(Broken::Reader)?;
                if chunk.filled().is_empty() {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                if let Some(kept) = kept.as_deref_mut() {
                    keep(kept, chunk.filled());
                }
                let written = self.write(cx, to, chunk.filled(), moved)?;
                if written < chunk.filled().len() {
                    self.rest = chunk.filled()[written..].to_vec();
                    return Poll::Pending;
                }
            }
            Poll::Pending
        })
    }

    fn flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut TcpStream,
        moved: &IntCounter,
    ) -> Poll<Result<(), Broken>> {
        if self.rest.is_empty() {
            return Poll::Ready(Ok(()));
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
        to: &mut TcpStream,
        bytes: &[u8],
        moved: &IntCounter,
    ) -> Result<usize, Broken> {
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut *to).poll_write(cx, &bytes[written..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    written += count;
                    self.bytes += count as u64;
                    moved.inc_by(count as u64);
                }
                Poll::Ready(Err(error)) => return Err(Broken::Writer(error)),
            }
        }
        Ok(written)
    }
}
