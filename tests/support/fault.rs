//! A relay that does harm to order, and keeps an exact account of what it did.
//!
//! One stands between a client and the bridge, another between the bridge and a server, so one of
//! its two connections is always the bridge's; the other one's end is called the far end. What it is
//! not told to harm it passes on as it is: bytes, a FIN of one direction, an RST.
//!
//! The account is the oracle's ground: the bridge's own story has to fit what was sent to it and
//! heard from it.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::time::Duration;

use tidegate::mysql::packet::{HEADER_LEN, payload_length};
use tidegate::net::socket::TcpInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep;

/// How a direction ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both connections are reset, after the bridge's kernel has acknowledged what was sent to it
    /// (`settled`), or at once, which may throw some of that away.
    Reset { settled: bool },
    /// A FIN to both ends; whatever they still say is thrown away.
    Truncate,
    /// A FIN in this direction; what still comes in it is thrown away.
    HalfClose,
}

/// What happens to one direction of one connection. Offsets count its bytes.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// So many of the first reads are passed on so much later.
    pub delay: (u32, Duration),
    /// Nothing is read for a while.
    pub stall: Option<(u64, Duration)>,
    /// These bytes leave one at a time.
    pub single: Range<u64>,
    pub cut: Option<(u64, Cut)>,
}

/// What happens to one connection.
#[derive(Debug, Clone, Default)]
pub struct Harm {
    pub to_bridge: Course,
    pub from_bridge: Course,
    /// The far end's FIN is kept from the bridge until the bridge has ended its own direction: so
    /// the harm done elsewhere is the first thing that the bridge can see of an end.
    pub hold: bool,
}

/// Whether something was done to the bridge before it was seen to do the same: to end its own
/// direction, for a FIN, or to reset, for a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    First,
    Answer,
}

/// How a stream of bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Eof,
    Reset,
}

/// What was done to the bridge, and what it did.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Bytes written to the bridge.
    pub sent: u64,
    /// Bytes read from the bridge.
    pub heard: u64,
    /// A reset may have thrown some of `sent` away.
    pub unsettled: bool,
    pub fin: Option<Order>,
    pub reset: Option<Order>,
    /// A write has met the bridge's RST.
    pub refused: bool,
    /// How the bridge ended; nothing when it was cut off before.
    pub end: Option<Ending>,
    /// The cuts that were reached.
    pub cuts: Vec<Cut>,
}

#[derive(Debug)]
pub struct Relay {
    harm: Harm,
    account: RefCell<Account>,
    bridge_ended: watch::Sender<bool>,
}

/// Why both directions end at once.
enum Stop {
    Reset,
    Truncate,
}

/// Why one direction carries no more.
enum Carried {
    SourceEnded,
    SourceBroke,
    SinkBroke,
    Cut(Cut),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Toward {
    Bridge,
    Far,
}

impl Relay {
    pub fn new(harm: Harm) -> Self {
        Self { harm, account: RefCell::default(), bridge_ended: watch::Sender::new(false) }
    }

    pub fn account(&self) -> Account {
        self.account.borrow().clone()
    }

    /// Passes on the far end's first packet, and harms nothing yet.
    pub async fn greet(&self, bridge: &mut TcpStream, far: &mut TcpStream) -> io::Result<()> {
        let mut packet = vec![0; HEADER_LEN];
        far.read_exact(&mut packet).await?;
        packet.resize(HEADER_LEN + payload_length(packet.first_chunk().unwrap()), 0);
        far.read_exact(&mut packet[HEADER_LEN..]).await?;
        bridge.write_all(&packet).await?;
        self.account.borrow_mut().sent += packet.len() as u64;
        Ok(())
    }

    /// Relays one connection to its end.
    pub async fn run(&self, mut bridge: TcpStream, mut far: TcpStream) {
        for stream in [&bridge, &far] {
            stream.set_nodelay(true).unwrap();
        }
        let stop = {
            let (mut from_bridge, mut to_bridge) = bridge.split();
            let (mut from_far, mut to_far) = far.split();
            tokio::try_join!(
                self.speak(&mut from_far, &mut to_bridge),
                self.listen(&mut from_bridge, &mut to_far),
            )
        };
        match stop {
            Ok(_) => {}
            Err(Stop::Reset) => {
                let mut account = self.account.borrow_mut();
                // After an EOF of the bridge the other direction may still be open: no mere answer.
                let answer = account.refused || account.end == Some(Ending::Reset);
                account.reset = Some(if answer { Order::Answer } else { Order::First });
                drop(account);
                // They take effect when the streams are dropped, right here.
                bridge.set_zero_linger().unwrap();
                far.set_zero_linger().unwrap();
            }
            Err(Stop::Truncate) => {
                let (mut from_bridge, mut to_bridge) = bridge.split();
                let (mut from_far, mut to_far) = far.split();
                self.fin(&mut to_bridge).await;
                let _ = to_far.shutdown().await;
                tokio::join!(self.waste_bridge(&mut from_bridge), waste(&mut from_far));
            }
        }
    }

    async fn speak(&self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> Result<(), Stop> {
        match self.carry(from, to, &self.harm.to_bridge, Toward::Bridge).await {
            Carried::SourceEnded => {
                if self.harm.hold {
                    self.bridge_ended.subscribe().wait_for(|ended| *ended).await.unwrap();
                }
                self.fin(to).await;
                Ok(())
            }
            Carried::SourceBroke => self.unsettle(),
            Carried::SinkBroke => {
                if self.refused() {
                    return Err(Stop::Reset);
                }
                // What the bridge said before is still there to be read, by the other direction.
                waste(from).await;
                Ok(())
            }
            Carried::Cut(Cut::HalfClose) => {
                self.fin(to).await;
                waste(from).await;
                Ok(())
            }
            Carried::Cut(Cut::Reset { settled }) => self.reset(to.as_ref(), settled).await,
            Carried::Cut(Cut::Truncate) => Err(Stop::Truncate),
        }
    }

    async fn listen(&self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> Result<(), Stop> {
        match self.carry(from, to, &self.harm.from_bridge, Toward::Far).await {
            Carried::SourceEnded if !self.account.borrow().refused => {
                self.ended(Ending::Eof);
                let _ = to.shutdown().await;
                Ok(())
            }
            // A write has met the bridge's RST before a read could.
            Carried::SourceEnded | Carried::SourceBroke => {
                self.ended(Ending::Reset);
                settled(to.as_ref()).await;
                Err(Stop::Reset)
            }
            Carried::SinkBroke => self.unsettle(),
            Carried::Cut(Cut::HalfClose) => {
                let _ = to.shutdown().await;
                match self.waste_bridge(from).await {
                    Ending::Eof => Ok(()),
                    Ending::Reset => Err(Stop::Reset),
                }
            }
            Carried::Cut(Cut::Reset { settled }) => self.reset(from.as_ref(), settled).await,
            Carried::Cut(Cut::Truncate) => Err(Stop::Truncate),
        }
    }

    async fn carry(
        &self,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        course: &Course,
        toward: Toward,
    ) -> Carried {
        let mut buffer = vec![0; 16 * 1024];
        let mut at = match toward {
            Toward::Bridge => self.account.borrow().sent,
            Toward::Far => 0,
        };
        let (mut delays, delay) = course.delay;
        let mut stall = course.stall;
        loop {
            if let Some((_, time)) = stall.take_if(|(offset, _)| at >= *offset) {
                sleep(time).await;
            }
            if let Some((_, cut)) = course.cut.filter(|(offset, _)| at >= *offset) {
                self.account.borrow_mut().cuts.push(cut);
                return Carried::Cut(cut);
            }
            let single = course.single.contains(&at);
            let next = [course.cut.map(|cut| cut.0), stall.map(|stall| stall.0)];
            let room = next
                .into_iter()
                .flatten()
                .chain((at < course.single.start).then_some(course.single.start))
                .map(|offset| offset - at)
                .fold(buffer.len() as u64, u64::min);
            let room = if single { 1 } else { room as usize };
            let count = match from.read(&mut buffer[..room]).await {
                Ok(0) => return Carried::SourceEnded,
                Ok(count) => count,
                Err(_) => return Carried::SourceBroke,
            };
            at += count as u64;
            if toward == Toward::Far {
                self.account.borrow_mut().heard += count as u64;
            }
            if delays > 0 {
                delays -= 1;
                sleep(delay).await;
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let Ok(written) = to.write(rest).await else { return Carried::SinkBroke };
                rest = &rest[written..];
                if toward == Toward::Bridge {
                    self.account.borrow_mut().sent += written as u64;
                }
            }
            if single {
                // Whoever waits for the byte may take it alone.
                yield_now().await;
            }
        }
    }

    /// Notes that a write has met the bridge's RST; tells whether the bridge had ended before.
    fn refused(&self) -> bool {
        let mut account = self.account.borrow_mut();
        (account.refused, account.unsettled) = (true, true);
        account.end.is_some()
    }

    fn order(&self) -> Order {
        if *self.bridge_ended.borrow() { Order::Answer } else { Order::First }
    }

    fn ended(&self, end: Ending) {
        self.account.borrow_mut().end = Some(end);
        self.bridge_ended.send_replace(true);
    }

    async fn fin(&self, to: &mut WriteHalf<'_>) {
        let order = self.order();
        self.account.borrow_mut().fin.get_or_insert(order);
        // Fails when the bridge has been reset; reading it tells.
        let _ = to.shutdown().await;
    }

    async fn reset(&self, bridge: &TcpStream, after_all: bool) -> Result<(), Stop> {
        if after_all {
            settled(bridge).await;
            Err(Stop::Reset)
        } else {
            self.unsettle()
        }
    }

    fn unsettle(&self) -> Result<(), Stop> {
        self.account.borrow_mut().unsettled = true;
        Err(Stop::Reset)
    }

    /// Reads what the bridge still says for nobody.
    async fn waste_bridge(&self, from: &mut ReadHalf<'_>) -> Ending {
        if let Some(end) = self.account().end {
            return end;
        }
        let mut buffer = vec![0; 16 * 1024];
        let end = loop {
            match from.read(&mut buffer).await {
                // Else a write has met the bridge's RST before this read could.
                Ok(0) if !self.account.borrow().refused => break Ending::Eof,
                Ok(0) => break Ending::Reset,
                Ok(count) => self.account.borrow_mut().heard += count as u64,
                Err(_) => break Ending::Reset,
            }
        };
        self.ended(end);
        end
    }
}

/// Reads for nobody until the end, whichever it is.
async fn waste(from: &mut ReadHalf<'_>) {
    let mut buffer = vec![0; 16 * 1024];
    while matches!(from.read(&mut buffer).await, Ok(1..)) {}
}

/// Waits until the other end's kernel has everything that was written.
pub async fn settled(stream: &TcpStream) {
    let all = || -> io::Result<bool> {
        let info = TcpInfo::of(stream)?;
        Ok(info.all_acknowledged() || info.is_over())
    };
    while !all().unwrap() {
        sleep(Duration::from_millis(1)).await;
    }
}
