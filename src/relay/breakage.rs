//! The end of a session whose one side broke: what it had sent is delivered, then the other side
//! is reset.
//!
//! An RST (`SO_LINGER` 0) throws the send queue away: sent at once, a client got 0.11 of 3.9 MB.
//! So it waits until the other side has acknowledged everything, or has made no progress for
//! [`PATIENCE`]. A Unix client has what was written, and is closed: it knows no RST.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};

use super::pump::{Broken, Tap};
use super::{End, MOVES_PER_POLL, Reason, Relay, Side};
use crate::net::stream::Untaken;

/// How long the other side may take nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the kernel is asked; it does not tell of acknowledgements by itself.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// A side that broke, and how far the other side is.
#[derive(Debug)]
pub(super) struct Breakage {
    cause: (Side, Reason),
    delivered: bool,
    /// Bytes written, and how much of them the other side has not taken.
    progress: Option<(u64, Untaken)>,
    progress_at: Instant,
    ask: Pin<Box<Sleep>>,
}

impl Breakage {
    pub fn new(cause: (Side, Reason)) -> Self {
        Self {
            cause,
            delivered: false,
            progress: None,
            progress_at: Instant::now(),
            ask: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

impl Relay {
    pub(super) fn poll_breakage(
        &mut self,
        mut breakage: Box<Breakage>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        let (broken, other, pump, moved) = match breakage.cause.0 {
            Side::Upstream => (
                &mut self.upstream.stream,
                &mut self.client.stream,
                &mut self.to_client,
                &self.relayed.to_client,
            ),
            Side::Client | Side::Tidegate => (
                &mut self.client.stream,
                &mut self.upstream.stream,
                &mut self.to_upstream,
                &self.relayed.to_upstream,
            ),
        };
        let mut moves = MOVES_PER_POLL;
        if !breakage.delivered {
            let tap = match &mut self.commands {
                Some(commands) if breakage.cause.0 != Side::Upstream => Tap::Commands(commands),
                _ => Tap::Nobody,
            };
            match pump.poll(cx, broken, other, moved, &mut moves, tap) {
                // What it would do next is for nobody any more.
                Poll::Pending => {
                    let has_stopped = self.commands.as_ref().is_some_and(|one| one.has_stopped());
                    breakage.delivered = has_stopped && pump.is_flushed();
                }
                Poll::Ready(Ok(()) | Err(Broken::Reader(_))) => breakage.delivered = true,
                Poll::Ready(Err(Broken::Writer(_))) => {
                    return Poll::Ready(self.end(breakage.cause));
                }
            }
        }
        // What is encrypted already. An error would have been met by the write.
        let _ = Pin::new(&mut *other).poll_flush(cx);
        if moves == 0 {
            cx.waker().wake_by_ref();
        }
        while let Some(untaken) = other.socket().untaken() {
            if breakage.delivered && other.is_flushed() && !untaken.is_at_risk() {
                break;
            }
            let progress = Some((pump.bytes(), untaken));
            if progress != breakage.progress {
                breakage.progress = progress;
                breakage.progress_at = Instant::now();
            } else if breakage.progress_at.elapsed() >= PATIENCE {
                break;
            }
            if breakage.ask.as_mut().poll(cx).is_pending() {
                self.breakage = Some(breakage);
                return Poll::Pending;
            }
            breakage.ask.as_mut().reset(Instant::now() + ASK_EVERY);
        }
        self.client.stream.socket().reset_on_close();
        self.upstream.stream.socket().reset_on_close();
        Poll::Ready(self.end(breakage.cause))
    }
}
