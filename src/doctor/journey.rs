//! The connections: to each address one, that goes as far as it gets.
//!
//! All are under way at the same time, and each leaves word at every step. The first one whose server
//! has greeted, and shown a certificate that is good enough, logs in; the others take leave, as every
//! connection does whose server has greeted: nobody counts an interrupted handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_common::packets::CommonOkPacket;
use rustls::{CipherSuite, ProtocolVersion};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::case::{Case, Deadline};
use super::now;
use super::tls::wants_certificate;
use crate::config::{SendProxyProtocol, Tcp, UpstreamTls};
use crate::mysql::channel::Channel;
use crate::mysql::error::Problem;
use crate::mysql::handshake::ServerKind;
use crate::mysql::login::{
    Greeting, Login, ask_for_tls, authenticate, give_up, greeting, take_leave,
};
use crate::net::connect::{ConnectError, connect};
use crate::net::proxy_protocol;
use crate::net::socket::TcpInfo;
use crate::tls::client::Connector;
use crate::tls::look::{Seen, Shown};

/// The longest time for each step, however patient `connect_timeout` is.
const MOST_FOR_TCP: Duration = Duration::from_secs(5);
/// Greeting and TLS may take as many times `connect_timeout`: they are as many round trips.
const TWICE: u32 = 2;
const MOST_FOR_A_STEP: Duration = Duration::from_secs(6);
/// So may a log-in, which is answered more slowly by a cluster that sleeps.
const OFTEN: u32 = 5;
const MOST_FOR_A_LOGIN: Duration = Duration::from_secs(15);
/// A little less than the kernel waits before it sends a SYN again.
const A_SYN_AGAIN: Duration = Duration::from_millis(900);
const FOR_AN_END: Duration = Duration::from_secs(2);
const PINGS: usize = 9;
const FOR_PINGS: Duration = Duration::from_secs(3);
const COM_QUIT: u8 = 0x01;
const COM_PING: u8 = 0x0e;

/// A connection under way: what it has met at each step. A step that it did not come to leaves no word.
#[derive(Debug)]
pub(super) struct Journey {
    pub address: SocketAddr,
    pub connected: oneshot::Receiver<Result<Connected, ConnectError>>,
    pub greeted: oneshot::Receiver<Result<Greeted, Trouble>>,
    pub secured: oneshot::Receiver<Secured>,
    pub logged_in: oneshot::Receiver<LoggedIn>,
}

/// A TCP connection that was made.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub took: Duration,
    /// Largest segment, and largest packet of the path; `None`: it was reset before it was asked.
    pub sizes: Option<[u32; 2]>,
}

/// What a greeting told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeted {
    pub kind: ServerKind,
    pub version: String,
    pub plugin: String,
    pub offers_tls: bool,
}

/// What became of TLS.
#[derive(Debug)]
pub(super) struct Secured {
    pub result: Result<(ProtocolVersion, CipherSuite), Trouble>,
    /// What the server has shown, if it came to that.
    pub shown: Option<Shown>,
}

impl Secured {
    /// As it is, unless the server has said on the way out that it does not like the client's
    /// certificate, or wants one.
    fn unless_refused(self, left: Result<(), Problem>) -> Self {
        match left {
            Err(Problem::Broken(error)) if wants_certificate(&error) => {
                Self { result: Err(Problem::Tls(error).into()), ..self }
            }
            _ => self,
        }
    }
}

/// What became of a log-in.
#[derive(Debug)]
pub(super) struct LoggedIn {
    pub is_secure: bool,
    pub took: Duration,
    pub result: Result<Visit, Trouble>,
}

/// A session that was begun and ended.
#[derive(Debug)]
pub(super) struct Visit {
    /// The plugin by which the user was let in.
    pub plugin: String,
    /// Round trips.
    pub pings: Vec<Duration>,
}

/// Why a step failed.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    /// It took too long.
    #[error("nothing within {}", super::shown(*.0))]
    Timeout(Duration),
    /// What the server said, or that it said no more.
    #[error("{0}")]
    Wire(#[from] Problem),
}

/// What all journeys of an upstream go by.
struct Rules {
    tcp: Tcp,
    send_proxy_protocol: SendProxyProtocol,
    connect_timeout: Duration,
    is_mysql: bool,
    mode: UpstreamTls,
    /// Without TLS nobody logs in.
    needs_tls: bool,
    login: Option<Login>,
    /// One of them is logging in.
    is_taken: AtomicBool,
    deadline: Deadline,
}

/// Begins them all.
pub(super) fn begin(case: &Case, addresses: &[SocketAddr]) -> Vec<Journey> {
    let rules = Arc::new(Rules {
        tcp: case.tcp.clone(),
        send_proxy_protocol: case.upstream.send_proxy_protocol,
        connect_timeout: case.upstream.connect_timeout,
        is_mysql: case.is_mysql(),
        mode: case.mode(),
        needs_tls: case.needs_tls(),
        login: case.login.clone().filter(|login| super::login::may_try(case, login)),
        is_taken: AtomicBool::new(false),
        deadline: case.deadline,
    });
    let begin = |address: &SocketAddr| {
        let (connected, greeted) = (oneshot::channel(), oneshot::channel());
        let (secured, logged_in) = (oneshot::channel(), oneshot::channel());
        let steps = Steps {
            connected: connected.0,
            greeted: greeted.0,
            secured: secured.0,
            logged_in: logged_in.0,
        };
        let (rules, address) = (rules.clone(), *address);
        let (connector, seen) = case.look.begin();
        case.tasks.spawn(async move { rules.travel(address, connector, seen, steps).await });
        Journey {
            address,
            connected: connected.1,
            greeted: greeted.1,
            secured: secured.1,
            logged_in: logged_in.1,
        }
    };
    addresses.iter().map(begin).collect()
}

struct Steps {
    connected: oneshot::Sender<Result<Connected, ConnectError>>,
    greeted: oneshot::Sender<Result<Greeted, Trouble>>,
    secured: oneshot::Sender<Secured>,
    logged_in: oneshot::Sender<LoggedIn>,
}

impl Rules {
    /// `None` where it ended before its goal.
    async fn travel(
        &self,
        address: SocketAddr,
        connector: Connector,
        seen: Seen,
        steps: Steps,
    ) -> Option<()> {
        let Steps { connected, greeted, secured, logged_in } = steps;
        let began = now();
        let stream = match self.connect(address).await {
            Ok((stream, met)) => {
                let _ = connected.send(Ok(met));
                stream
            }
            // It was accepted: an RST in answer to a SYN is a refusal. This one was there before
            // anybody looked.
            Err(ConnectError::Connect(reset) | ConnectError::Broken(reset))
                if reset.kind() == io::ErrorKind::ConnectionReset =>
            {
                let _ = connected.send(Ok(Connected { took: began.elapsed(), sizes: None }));
                let _ = greeted.send(Err(Trouble::Wire(Problem::Broken(reset))));
                return None;
            }
            Err(error) => {
                let _ = connected.send(Err(error));
                return None;
            }
        };
        if !self.is_mysql {
            return None;
        }
        let mut channel = Channel::new(stream);
        let hello = self.within(self.step(), greeting(&mut channel)).await?;
        let hello = match hello {
            Ok(hello) => {
                let _ = greeted.send(Ok(told(&hello)));
                hello
            }
            Err(trouble) => {
                let _ = greeted.send(Err(trouble));
                return None;
            }
        };
        let wants_tls = self.mode != UpstreamTls::Off && hello.offers_tls();
        if wants_tls {
            let login = self.login.clone().unwrap_or_else(nobody);
            let shaken = async {
                ask_for_tls(&mut channel, &hello, &login).await?;
                channel.secure(&connector).await
            };
            match self.within(self.step(), shaken).await? {
                Ok(secure) => channel = secure,
                Err(trouble) => {
                    let _ = secured.send(Secured { result: Err(trouble), shown: seen.shown() });
                    return None;
                }
            }
            let shown = seen.shown();
            let is_good = shown.as_ref().is_some_and(|shown| matches!(shown.verdict, Some(Ok(()))));
            if is_good {
                channel.has_been_verified();
            }
            let result = Ok(agreed(&channel));
            let met = Secured { result, shown };
            let may_log_in = is_good || !self.mode.is_verified();
            let Some(login) = self.login_if(may_log_in) else {
                let left = take_leave(&mut channel, &hello).await;
                let _ = secured.send(met.unless_refused(left));
                return None;
            };
            let _ = secured.send(met);
            let _ = logged_in.send(self.visit(channel, &hello, login).await?);
            return Some(());
        }
        let Some(login) = self.login_if(!self.needs_tls) else {
            // Also when the time is up: it is short, and what is left out counts with the server.
            let _ = take_leave(&mut channel, &hello).await;
            return None;
        };
        let _ = logged_in.send(self.visit(channel, &hello, login).await?);
        Some(())
    }

    /// For the first one who may use it: who may not leaves it to the others.
    fn login_if(&self, may_log_in: bool) -> Option<&Login> {
        let login = self.login.as_ref().filter(|_| may_log_in)?;
        (!self.is_taken.swap(true, Ordering::Relaxed)).then_some(login)
    }

    async fn connect(&self, address: SocketAddr) -> Result<(TcpStream, Connected), ConnectError> {
        let within = self.deadline.within(self.connect_timeout.min(MOST_FOR_TCP));
        let began = now();
        let mut stream = connect(address, &self.tcp, within).await?;
        let info = TcpInfo::of(&stream).map_err(ConnectError::Connect)?;
        // The kernel knows it better than a thread that does other things meanwhile; but not what a
        // lost SYN has cost.
        let took = match began.elapsed() {
            elapsed if elapsed < A_SYN_AGAIN => Duration::from_micros(info.rtt.into()),
            elapsed => elapsed,
        };
        proxy_protocol::send(&mut stream, self.send_proxy_protocol, None)
            .await
            .map_err(ConnectError::Broken)?;
        Ok((stream, Connected { took, sizes: Some([info.snd_mss, info.pmtu]) }))
    }

    async fn visit(
        &self,
        mut channel: Channel,
        hello: &Greeting,
        login: &Login,
    ) -> Option<LoggedIn> {
        let began = now();
        let is_secure = channel.is_secure();
        let authenticated = authenticate(&mut channel, hello, login);
        let most = self.connect_timeout.saturating_mul(OFTEN).min(MOST_FOR_A_LOGIN);
        let plugin = match self.within(most, authenticated).await? {
            Ok(plugin) => plugin,
            Err(trouble) => {
                let took = began.elapsed();
                if let Trouble::Wire(problem) = &trouble {
                    give_up(&mut channel, hello, problem).await;
                }
                return Some(LoggedIn { is_secure, took, result: Err(trouble) });
            }
        };
        let took = began.elapsed();
        let plugin = String::from_utf8_lossy(plugin.as_bytes()).into_owned();
        let mut pings = Vec::new();
        let pinged = async {
            while pings.len() < PINGS {
                let began = now();
                channel.command(COM_PING, &[]).await?;
                let next = channel.next().await?;
                channel.ok::<CommonOkPacket>(next).await?;
                pings.push(began.elapsed());
            }
            Ok::<(), Problem>(())
        };
        // Those that were answered are told of.
        let _ = self.within(FOR_PINGS, pinged).await;
        let farewell = async {
            channel.command(COM_QUIT, &[]).await?;
            Ok::<(), Problem>(channel.ended().await?)
        };
        let _ = self.within(FOR_AN_END, farewell).await;
        Some(LoggedIn { is_secure, took, result: Ok(Visit { plugin, pings }) })
    }

    /// Time for the greeting, and for TLS.
    fn step(&self) -> Duration {
        self.connect_timeout.saturating_mul(TWICE).min(MOST_FOR_A_STEP)
    }

    async fn within<T>(
        &self,
        most: Duration,
        act: impl Future<Output = Result<T, Problem>>,
    ) -> Option<Result<T, Trouble>> {
        Some(match self.deadline.give(most, act).await? {
            Ok(result) => result.map_err(Trouble::from),
            Err(within) => Err(Trouble::Timeout(within)),
        })
    }
}

fn told(hello: &Greeting) -> Greeted {
    Greeted {
        kind: hello.kind(),
        version: hello.version.clone(),
        plugin: hello.plugin.clone(),
        offers_tls: hello.offers_tls(),
    }
}

/// What was agreed on, which is known after a handshake.
fn agreed(channel: &Channel) -> (ProtocolVersion, CipherSuite) {
    let tls = channel.tls();
    let protocol = tls.and_then(|tls| tls.protocol_version());
    let cipher = tls.and_then(|tls| tls.negotiated_cipher_suite());
    (
        protocol.unwrap_or(ProtocolVersion::Unknown(0)),
        cipher.map_or(CipherSuite::Unknown(0), |cipher| cipher.suite()),
    )
}

/// Whoever only takes leave.
fn nobody() -> Login {
    Login {
        user: String::new(),
        password: String::new(),
        database: None,
        program: "tidegate doctor",
    }
}
