//! One connection of a load test: opened step by step with the time of each, then asked.

use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mysql_common::constants::{CapabilityFlags, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::misc::raw::RawInt;
use mysql_common::misc::raw::int::LenEnc;
use mysql_common::packets::{CommonOkPacket, OldEofPacket, ResultSetTerminator};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::{Problem, SessionError, Step};
use super::plan::Plan;
use crate::config::Tcp;
use crate::mysql::channel::{Channel, Next};
use crate::mysql::error::Problem as Wire;
use crate::mysql::login::{ask_for_tls, authenticate, give_up, greeting, take_leave};
use crate::net::connect::connect;

/// How long a server may take to close after a COM_QUIT.
const FAREWELL: Duration = Duration::from_secs(1);
/// No keepalive that helps a connection over what is looked for: a path that forgets who is silent.
const OPTIONS: Tcp = Tcp {
    keepalive_idle: Duration::from_secs(7200),
    keepalive_interval: Duration::from_secs(75),
    keepalive_count: 9,
    user_timeout: Duration::ZERO,
    congestion_control: None,
};

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_PING: u8 = 0x0e;

/// How long each of [`Step::OPENING`] took; a step that was not needed has none.
pub(super) type Times = [Option<Duration>; Step::OPENING.len()];

/// A connection that is logged in.
#[derive(Debug)]
pub(super) struct Session {
    channel: Channel,
    peer: SocketAddr,
    patience: Patience,
}

impl Session {
    /// Connects to the first of the addresses that answers, and logs in as the plan says. Each step
    /// may take as long as its `timeout`, and, as everything later, no longer than until `stop`.
    pub async fn open(
        plan: &Plan,
        addresses: &[SocketAddr],
        stop: &CancellationToken,
    ) -> Result<(Self, Times), SessionError> {
        let Plan { login, tls, timeout, .. } = plan;
        let patience = Patience { time: *timeout, stop: stop.clone() };
        let began = Instant::now();
        let mut laps = Laps { began, times: Times::default(), patience: &patience };
        let failed = |problem| SessionError::new(Step::Tcp, problem);
        let dialled = patience.unless_stopped(dial(addresses, patience.time));
        let (stream, peer) = dialled.await.map_err(failed)?;
        laps.passed(Step::Tcp);
        let mut channel = Channel::new(stream);
        let greeted = async { Ok(greeting(&mut channel).await?) };
        let greeting = laps.run(Step::Greeting, greeted).await?;
        if tls.is_some() && !greeting.offers_tls() {
            let left = async { Ok(take_leave(&mut channel, &greeting).await?) };
            let _ = patience.unless_stopped(left).await;
            return Err(SessionError::new(Step::Greeting, Wire::NoTls.into()));
        }
        if let Some(tls) = tls {
            let secured = async {
                ask_for_tls(&mut channel, &greeting, login).await?;
                Ok(channel.secure(tls).await?)
            };
            channel = laps.run(Step::Tls, secured).await?;
        }
        let authenticated = async { Ok(authenticate(&mut channel, &greeting, login).await?) };
        if let Err(error) = laps.run(Step::Authentication, authenticated).await {
            if let Some(problem) = error.wire() {
                let given_up = async {
                    give_up(&mut channel, &greeting, problem).await;
                    Ok(())
                };
                let _ = patience.unless_stopped(given_up).await;
            }
            return Err(error);
        }
        let times = laps.times;
        Ok((Self { channel, peer, patience }, times))
    }

    /// The address that answered.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// COM_PING.
    pub async fn ping(&mut self) -> Result<(), SessionError> {
        let channel = &mut self.channel;
        let answered = async {
            channel.command(COM_PING, &[]).await?;
            let next = channel.next().await?;
            channel.ok::<CommonOkPacket>(next).await?;
            Ok(())
        };
        self.patience.within(Step::Answer, answered).await
    }

    /// COM_QUERY; reads all results, and returns how many bytes their rows had.
    pub async fn query(&mut self, sql: &str) -> Result<u64, SessionError> {
        let channel = &mut self.channel;
        let answered = async {
            channel.command(COM_QUERY, sql.as_bytes()).await?;
            let mut bytes = 0;
            while result(channel, &mut bytes).await? {}
            Ok(bytes)
        };
        self.patience.within(Step::Answer, answered).await
    }

    /// A query whose rows are of so many bytes at the least.
    pub async fn bulk(&mut self, sql: &str, wanted: u64) -> Result<u64, SessionError> {
        match self.query(sql).await? {
            got if got < wanted => {
                Err(SessionError::new(Step::Answer, Problem::Short { got, wanted }))
            }
            got => Ok(got),
        }
    }

    /// COM_QUIT, and waits for the server to close: it keeps the port in TIME_WAIT then, not we.
    /// Returns how long that took.
    pub async fn quit(mut self) -> Duration {
        let began = Instant::now();
        let farewell = async {
            // A connection that fails now has done what it was for.
            if self.channel.command(COM_QUIT, &[]).await.is_ok() {
                let _ = self.channel.ended().await;
            }
            Ok(())
        };
        let _ = timeout(FAREWELL, self.patience.unless_stopped(farewell)).await;
        began.elapsed()
    }
}

/// Steps one after the other, each under the same deadline.
struct Laps<'a> {
    began: Instant,
    times: Times,
    patience: &'a Patience,
}

impl Laps<'_> {
    async fn run<T>(
        &mut self,
        step: Step,
        act: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, SessionError> {
        let result = self.patience.within(step, act).await?;
        self.passed(step);
        Ok(result)
    }

    fn passed(&mut self, step: Step) {
        let now = Instant::now();
        self.times[step as usize] = Some(now - mem::replace(&mut self.began, now));
    }
}

/// How long is waited for the other side.
#[derive(Debug)]
struct Patience {
    time: Duration,
    /// Nobody waits any longer.
    stop: CancellationToken,
}

impl Patience {
    async fn within<T>(
        &self,
        step: Step,
        act: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, SessionError> {
        let result = timeout(self.time, self.unless_stopped(act)).await;
        let result = result.unwrap_or(Err(Problem::Timeout(self.time)));
        result.map_err(|problem| SessionError::new(step, problem))
    }

    /// What is under way at the stop has failed: it is told of, too.
    async fn unless_stopped<T>(
        &self,
        act: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        tokio::select! {
            biased;
            result = act => result,
            () = self.stop.cancelled() => Err(Problem::Unfinished),
        }
    }
}

/// One after the other, so that one that is silent leaves time for the next.
async fn dial(
    addresses: &[SocketAddr],
    patience: Duration,
) -> Result<(TcpStream, SocketAddr), Problem> {
    let share = patience / addresses.len().max(1) as u32;
    let mut failed = None;
    for address in addresses {
        match connect(*address, &OPTIONS, share).await {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => failed = failed.or(Some(Problem::Connect(*address, error))),
        }
    }
    Err(failed.unwrap_or(Wire::Closed.into()))
}

/// Reads one result, and whether there is another.
async fn result(channel: &mut Channel, bytes: &mut u64) -> Result<bool, Problem> {
    let next = channel.next().await?;
    let status = match next.first {
        0x00 | 0xff => channel.ok::<CommonOkPacket>(next).await?,
        0xfb => return Err(Problem::LocalInfile),
        _ => {
            let columns = length(channel.keep(next).await?)?;
            for _ in 0..columns {
                let column = channel.next().await?;
                if column.first == 0xff {
                    channel.ok::<CommonOkPacket>(column).await?;
                }
                channel.skip(column).await?;
            }
            let has_eof = !channel.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF);
            if has_eof {
                let end = channel.next().await?;
                channel.ok::<OldEofPacket>(end).await?;
            }
            loop {
                let row = channel.next().await?;
                if row.first == 0xff || row.is_end() {
                    break end(channel, row, has_eof).await?;
                }
                *bytes += channel.skip(row).await?;
            }
        }
    };
    Ok(status.contains(StatusFlags::SERVER_MORE_RESULTS_EXISTS))
}

async fn end(channel: &mut Channel, next: Next, has_eof: bool) -> Result<StatusFlags, Problem> {
    match has_eof {
        true => Ok(channel.ok::<OldEofPacket>(next).await?),
        false => Ok(channel.ok::<ResultSetTerminator>(next).await?),
    }
}

/// A length-encoded number.
fn length(payload: &[u8]) -> Result<u64, Problem> {
    let number = ParseBuf(payload).parse::<RawInt<LenEnc>>(());
    Ok(number.map_err(|_| Wire::Malformed("no number of columns"))?.0)
}
