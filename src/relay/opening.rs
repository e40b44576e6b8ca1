//! The part of a MySQL session before both sides have spoken: deadlines, and what was said.
//!
//! The server speaks first, then the client, then the server again; from then on either may be
//! silent for as long as it likes. What was said is kept, so that a session that ends before can be
//! ended in the protocol's words. Dropped as a whole once the server has answered.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep};

use super::{Reason, Side};
use crate::net::stream::Stream;

/// A greeting is under 200 bytes, the head of a client's answer under 40.
const KEPT: usize = 512;
/// Longer than any session.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long the two sides may take to speak; 0: for ever.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For the client, after it was connected to an upstream.
    pub handshake: Duration,
    /// For the server's host, to acknowledge the client's first words; never 0.
    pub acknowledge: Duration,
    /// For the server, after the client's first words.
    pub reply: Duration,
}

/// What one side has said.
#[derive(Debug, Default)]
pub struct Heard {
    /// The first 512 bytes of it.
    pub beginning: Vec<u8>,
    /// All of its bytes.
    pub length: usize,
}

impl Heard {
    pub(super) fn add(&mut self, chunk: &[u8]) {
        self.length += chunk.len();
        let room = KEPT.saturating_sub(self.beginning.len());
        self.beginning.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
}

/// A session in which not both sides have spoken yet.
#[derive(Debug)]
pub struct Opening {
    /// What the server has said: its greeting.
    pub greeting: Heard,
    /// What the client has said.
    pub answer: Heard,
    /// Since when.
    client_spoke: Option<Instant>,
    deadlines: Deadlines,
    timer: Pin<Box<Sleep>>,
}

impl Opening {
    pub(super) fn new(deadlines: Deadlines) -> Self {
        Self {
            greeting: Heard::default(),
            answer: Heard::default(),
            client_spoke: None,
            deadlines,
            timer: Box::pin(sleep(or_never(deadlines.handshake))),
        }
    }

    /// Whether the client has said anything.
    pub fn client_has_spoken(&self) -> bool {
        self.client_spoke.is_some()
    }

    /// Waits for the client's first byte. `Err`: it left without one.
    pub(super) fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
        client: &Stream,
    ) -> Poll<Result<(), Reason>> {
        if self.client_has_spoken() {
            return Poll::Ready(Ok(()));
        }
        let mut byte = [0];
        Poll::Ready(match ready!(client.poll_peek(cx, &mut ReadBuf::new(&mut byte))) {
            Ok(0) => Err(Reason::Eof),
            Err(error) => Err(Reason::of(&error)),
            Ok(_) => {
                let now = Instant::now();
                self.client_spoke = Some(now);
                let Deadlines { acknowledge, reply, .. } = self.deadlines;
                self.timer.as_mut().reset(now + acknowledge.min(or_never(reply)));
                Ok(())
            }
        })
    }

    /// Becomes ready when the side that is due has not spoken in time.
    ///
    /// A server may think for as long as `reply` says, but its host acknowledges what it gets. One that
    /// vanished after it had greeted does not.
    pub(super) fn poll_late(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &Stream,
    ) -> Poll<(Side, Reason)> {
        ready!(self.timer.as_mut().poll(cx));
        let Some(spoke) = self.client_spoke else {
            return Poll::Ready((Side::Tidegate, Reason::HandshakeTimeout));
        };
        let Deadlines { acknowledge, reply, .. } = self.deadlines;
        let reply_due = spoke + or_never(reply);
        if Instant::now() < reply_due {
            if upstream.has_vanished(acknowledge) {
                return Poll::Ready((Side::Upstream, Reason::Stalled));
            }
            self.timer.as_mut().reset(reply_due);
            ready!(self.timer.as_mut().poll(cx));
        }
        Poll::Ready((Side::Tidegate, Reason::ReplyTimeout))
    }
}

fn or_never(duration: Duration) -> Duration {
    if duration.is_zero() { NEVER } else { duration }
}
