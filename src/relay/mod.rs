//! Moves bytes between a client and an upstream until both have said all they had to say.
//!
//! The rules of this room:
//! - EOF on one side closes only that direction, after what was read before it has been written.
//! - A side that breaks (RST, keepalive time-out) does not end the direction that comes from it
//!   before everything it had sent is delivered: an ERR packet that a server sends before it
//!   resets the connection is worth more than the error that the next write meets.
//! - A break is passed on as an RST, once the other side has acknowledged what it was sent. There
//!   is no RST to a Unix client: it sees an EOF, or `ECONNRESET` if it had said something unheard.
//! - An idle session holds no buffer and no pipe.
//! - Bytes are never overtaken: what was read goes out before anything is spliced, and what is in a
//!   pipe goes out before anything is read.
//!
//! A [`Relay`] is the last stage of a task on a `current_thread` runtime: what it borrows while it
//! moves bytes (`pump`) and how it is woken to be looked at (`watch`) belongs to the thread.

mod breakage;
mod commands;
mod end;
mod gone;
mod opening;
mod parting;
mod pipe;
mod pump;
mod quiet;
mod watch;

use std::future::Future;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tracing::{Level, enabled};

use crate::config::Splice;
use crate::metrics::Relayed;
use crate::net::transport::Transport;
use breakage::Breakage;
use commands::Commands;
use pump::{Broken, Pump, Tap, Way};
use quiet::Quiet;
use watch::Watch;

pub use end::{End, Reason, Side};
pub use opening::{Deadlines, Opening};
pub use parting::{Change, Parting};
pub use pipe::MOST as MOST_PIPES;
pub use quiet::Limits;
pub use watch::{look_after, period};

/// Moves (a read or a splice, and its write) of a direction in one poll before other sessions get
/// their turn.
const MOVES_PER_POLL: u32 = 32;

/// One side's socket.
#[derive(Debug)]
struct Leg {
    stream: Transport,
    /// Since when it owes an answer, as far as was looked.
    unanswered_since: Option<Instant>,
}

impl Leg {
    fn new(stream: Transport) -> Self {
        Self { stream, unanswered_since: None }
    }
}

/// The future of one session's bytes. Under 512 bytes, so that idle sessions are cheap.
#[derive(Debug)]
pub struct Relay {
    client: Leg,
    upstream: Leg,
    to_upstream: Pump,
    to_client: Pump,
    relayed: Arc<Relayed>,
    stall_timeout: Duration,
    watch: Watch,
    first: Option<(Side, Reason)>,
    breakage: Option<Box<Breakage>>,
    opening: Option<Box<Opening>>,
    /// If it stops before a change of user.
    commands: Option<Box<Commands>>,
    quiet: Quiet,
    /// Whether the client was sent a FIN; the upstream. Here and not in the legs, where they would
    /// take eight bytes each.
    client_closed: bool,
    upstream_closed: bool,
    /// Whether, at the last look, both sides had acknowledged everything.
    settled: bool,
}

impl Relay {
    /// A relay between two connected sockets. `stall_timeout` 0 means never. With `deadlines`
    /// the upstream speaks first, then the client, then the upstream.
    pub fn new(
        client: impl Into<Transport>,
        upstream: impl Into<Transport>,
        relayed: Arc<Relayed>,
        stall_timeout: Duration,
        splice: Splice,
        limits: Limits,
        deadlines: Option<Deadlines>,
    ) -> Self {
        let (client, upstream) = (client.into(), upstream.into());
        let way = match client.is_secure() || upstream.is_secure() {
            true => Way::Tls,
            false => Way::Plain(splice),
        };
        Self {
            client: Leg::new(client),
            upstream: Leg::new(upstream),
            to_upstream: Pump::new(way),
            to_client: Pump::new(way),
            relayed,
            stall_timeout,
            watch: Watch::default(),
            first: None,
            breakage: None,
            opening: deadlines.map(|deadlines| Box::new(Opening::new(deadlines))),
            commands: None,
            quiet: Quiet::new(limits),
            client_closed: false,
            upstream_closed: false,
            settled: false,
        }
    }

    /// It goes on where the server has just said OK.
    pub fn after_the_log_in(mut self) -> Self {
        self.quiet.server_has_spoken();
        self
    }

    /// Moves what can be moved. `Ready(Ok)` when both directions are closed.
    fn poll_pumps(
        &mut self,
        cx: &mut Context<'_>,
        client_speaks: bool,
    ) -> Poll<Result<(), (Side, Reason)>> {
        // One budget each: a busy direction does not hold the other one up.
        let (mut up_moves, mut down_moves) = (MOVES_PER_POLL, MOVES_PER_POLL);
        let (sent, received) = (self.to_upstream.bytes(), self.to_client.bytes());
        let client_had_spoken = sent > 0;
        let mut up = Poll::Pending;
        if client_speaks {
            let tap = match (&mut self.opening, &mut self.commands) {
                (Some(opening), _) => Tap::Keep(&mut opening.answer),
                (None, Some(commands)) => Tap::Commands(commands),
                (None, None) => Tap::Nobody,
            };
            let (client, upstream) = (&mut self.client.stream, &mut self.upstream.stream);
            let moved = &self.relayed.to_upstream;
            let pumped = self.to_upstream.poll(cx, client, upstream, moved, &mut up_moves, tap);
            let pumped = say_all(pumped, client, upstream, cx);
            up = self.settle(pumped, Side::Client, Side::Upstream);
        }
        if let Poll::Ready(Err(cause)) = up {
            // The kernel tells a socket's error once, and the write has taken it: the other
            // direction would read an orderly EOF now.
            return Poll::Ready(Err(cause));
        }
        let tap = match &mut self.opening {
            Some(opening) => Tap::Keep(&mut opening.greeting),
            None => Tap::Nobody,
        };
        let (client, upstream) = (&mut self.client.stream, &mut self.upstream.stream);
        let moved = &self.relayed.to_client;
        let pumped = self.to_client.poll(cx, upstream, client, moved, &mut down_moves, tap);
        let pumped = say_all(pumped, upstream, client, cx);
        let down = self.settle(pumped, Side::Upstream, Side::Client);
        let (sent, received) =
            (self.to_upstream.bytes() != sent, self.to_client.bytes() != received);
        // What comes together with the client's first words cannot be an answer to them.
        if received && client_had_spoken {
            self.opening = None;
        }
        self.quiet.moved(sent, received);
        if up_moves == 0 || down_moves == 0 {
            cx.waker().wake_by_ref();
        }
        if sent || received {
            self.watch.again();
        }
        match (up, down) {
            (_, Poll::Ready(Err(cause))) => Poll::Ready(Err(cause)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    /// Whether a change of user has come, and nothing of before is under way.
    fn user_changes(&self) -> bool {
        let has_stopped = self.commands.as_ref().is_some_and(|commands| commands.has_stopped());
        has_stopped && self.is_flushed()
    }

    /// Whether the sockets have taken everything that was read.
    fn is_flushed(&self) -> bool {
        let pumps = self.to_upstream.is_flushed() && self.to_client.is_flushed();
        pumps && self.client.stream.is_flushed() && self.upstream.stream.is_flushed()
    }

    /// Passes the end of a direction on, and names the side behind a pump's error.
    fn settle(
        &mut self,
        pumped: Poll<Result<(), Broken>>,
        from: Side,
        to: Side,
    ) -> Poll<Result<(), (Side, Reason)>> {
        pumped.map(|result| match result {
            Ok(()) => {
                // The second one's end is told by closing both.
                if !self.client_closed && !self.upstream_closed {
                    self.close_writing(to);
                }
                self.first.get_or_insert((from, Reason::Eof));
                Ok(())
            }
            Err(Broken::Reader(error)) => Err((from, Reason::of(&error))),
            Err(Broken::Writer(error)) => Err((to, Reason::of(&error))),
        })
    }

    /// Sends a FIN.
    fn close_writing(&mut self, to: Side) {
        let (leg, closed) = match to {
            Side::Upstream => (&self.upstream, &mut self.upstream_closed),
            Side::Client | Side::Tidegate => (&self.client, &mut self.client_closed),
        };
        *closed = true;
        self.watch.again();
        // Fails only on a connection that is broken; reading it will tell how.
        let _ = SockRef::from(leg.stream.socket()).shutdown(Shutdown::Write);
    }

    fn break_off(&mut self, cause: (Side, Reason), cx: &mut Context<'_>) -> Poll<End> {
        let silent = self.opening.as_ref().is_some_and(|opening| !opening.client_has_spoken());
        if silent && cause.0 == Side::Client {
            // The greeting's write met it first. There is nothing to deliver, but a server to
            // take leave of.
            return Poll::Ready(self.end(cause));
        }
        self.opening = None;
        self.poll_breakage(Box::new(Breakage::new(cause)), cx)
    }

    /// The account of a session. The first cause counts, but a break after one direction's EOF
    /// tells more than the EOF.
    fn end(&self, cause: (Side, Reason)) -> End {
        let (side, reason) = match self.first {
            Some(first) if cause.1 == Reason::Eof => first,
            _ => cause,
        };
        End {
            side,
            reason,
            to_upstream: self.to_upstream.bytes(),
            to_client: self.to_client.bytes(),
            upstream: match enabled!(Level::INFO) {
                true => self.upstream.stream.socket().tcp_info(),
                false => None,
            },
        }
    }
}

/// An end of TLS is passed on as one, and a mere end of the connection, as most servers do it, as that:
/// who looks can tell whether something was cut off.
fn say_all(
    pumped: Poll<Result<(), Broken>>,
    from: &Transport,
    to: &mut Transport,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    match pumped {
        Poll::Ready(Ok(())) if from.has_said_all() => to.poll_say_all(cx).map_err(Broken::Writer),
        other => other,
    }
}

impl Future for Relay {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        let due = this.watch.poll(cx);
        if due.closing {
            return Poll::Ready(this.end((Side::Tidegate, Reason::Drain)));
        }
        if let Some(breakage) = this.breakage.take() {
            return this.poll_breakage(breakage, cx);
        }
        let mut client_speaks = true;
        if let Some(opening) = &mut this.opening {
            match opening.poll_client(cx, this.client.stream.socket()) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => {
                    return Poll::Ready(this.end((Side::Client, reason)));
                }
                Poll::Pending => client_speaks = false,
            }
        }
        if due.check {
            if let Some(cause) = this.gone() {
                return this.break_off(cause, cx);
            }
            let settled = this.settled && this.is_flushed();
            if let Some(reason) = this.quiet.over(settled, due.retiring) {
                return Poll::Ready(this.end((Side::Tidegate, reason)));
            }
        }
        match this.poll_pumps(cx, client_speaks) {
            Poll::Ready(Ok(())) => Poll::Ready(this.end((Side::Client, Reason::Eof))),
            Poll::Ready(Err(cause)) => this.break_off(cause, cx),
            Poll::Pending if this.user_changes() => {
                Poll::Ready(this.end((Side::Client, Reason::ChangesUser)))
            }
            // After the pumps: an answer that is there already is in time.
            Poll::Pending => match &mut this.opening {
                Some(opening) => {
                    let late = opening.poll_late(cx, this.upstream.stream.socket());
                    late.map(|cause| this.end(cause))
                }
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[test]
    fn an_idle_relay_is_small() {
        assert!(size_of::<Relay>() < 512, "{} bytes", size_of::<Relay>());
    }

    /// The reset arrives between the look at the client and the write of the greeting.
    #[tokio::test]
    async fn a_client_that_reset_unheard_leaves_a_server_to_take_leave_of() {
        let (client, visitor) = pair().await;
        let (upstream, server) = pair().await;
        let relayed = crate::metrics::Metrics::new().listener("test", &["off"]).relayed;
        let limits = Limits { idle_timeout: Duration::ZERO, retire_at: None, retire: None };
        let minute = Duration::from_secs(60);
        let deadlines = Some(Deadlines { handshake: minute, acknowledge: minute, reply: minute });
        let mut relay =
            Relay::new(client, upstream, relayed, minute, Splice::Auto, limits, deadlines);
        assert!(poll_once(&mut relay).is_pending());
        server.try_write(b"hello").unwrap();
        relay.upstream.stream.socket().ready(tokio::io::Interest::READABLE).await.unwrap();
        visitor.set_zero_linger().unwrap();
        drop(visitor);
        let Poll::Ready(end) = poll_once(&mut relay) else { panic!("it goes on") };
        assert_eq!((end.side, end.reason), (Side::Client, Reason::Reset));
        assert!(!relay.into_parting().unwrap().opening.client_has_spoken());
    }

    fn poll_once(relay: &mut Relay) -> Poll<End> {
        Pin::new(relay).poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    /// Both ends of a connection.
    #[expect(clippy::disallowed_methods, reason = "loopback")]
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }
}
