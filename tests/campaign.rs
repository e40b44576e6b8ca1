//! A campaign of sessions that are harmed on their way, each in a manner that follows from its seed.
//!
//! A [`Plan`] says who talks with whom and what two fault relays do to it, one on either side of the
//! bridge. Sessions run on lanes, many at a time through one bridge; a lane has listeners and an
//! upstream of its own, so every metric, record and socket can be laid at the door of one session.
//!
//! The oracle: what arrives is what was sent, whole where nothing cut it; every session ends in time;
//! side and reason fit what the relays did to the bridge; the byte counts fit what they saw; each
//! session is counted once; nothing of it is left in the bridge.
//!
//! `TIDEGATE_TEST_SEED=17` runs that seed alone, `TIDEGATE_TEST_SEED=301-999` those.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::env;
use std::fmt::{self, Write as _};
use std::fs;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::*;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use support::bridge::{Bridge, CloseRecord, Metrics};
use support::fault::{Account, Course, Cut, Ending, Harm, Order, Relay};
use support::mariadb::MariaDb;
use support::tcp::{Noise, nobody, rows, serve};
use support::{PATIENCE, full_or, runtime, threads, until_it};

/// Sessions at a time, and those of them that find no server.
const LANES: usize = 14;
const LANES_WITHOUT_SERVER: usize = 2;
/// The longest that a session may last. The harm takes 3 s at most, the rest is a busy machine's.
const BOUND: Duration = PATIENCE;
/// Failures that are told in full.
const TOLD: usize = 4;

#[test]
fn sessions_harmed_on_their_way_end_as_what_they_are_and_leave_nothing_behind() {
    campaign(Pool::Off);
}

#[test]
fn so_do_those_over_connections_that_were_there_before() {
    let Some(metrics) = campaign(Pool::Warm) else { return };
    let checkouts = |labels: &[_]| metrics.sum("tidegate_pool_checkouts_total", labels);
    let (hits, all) = (checkouts(&[("result", "hit")]), checkouts(&[]));
    assert!(hits > 0.9 * all, "{hits} of {all}");
}

/// Returns the bridge's last metrics.
fn campaign(pool: Pool) -> Option<Metrics> {
    let db = MariaDb::start(&["--max-connect-errors=1000000"])?;
    let plans = seeds().map(Plan::of).filter(|plan| pool == Pool::Off || plan.can_be_warm());
    let (without, with): (VecDeque<_>, VecDeque<_>) =
        plans.partition(|plan| matches!(plan.talk, Talk::NoServer(_)));
    let (gateway, _held) = nobody();
    let (mut bridge, lanes) = open(gateway, pool);
    let idle = bridge.fds();
    let backs: Vec<_> = lanes.iter().map(|lane| lane.back.try_clone().unwrap()).collect();

    let (with, without) = (Mutex::new(with), Mutex::new(without));
    let failures = Mutex::new(BTreeMap::new());
    let sessions = AtomicUsize::new(0);
    thread::scope(|scope| {
        for mut lane in lanes {
            let queue = if lane.number < LANES - LANES_WITHOUT_SERVER { &with } else { &without };
            let (bridge, db, failures, sessions) = (&bridge, &db, &failures, &sessions);
            scope.spawn(move || {
                let clean = Plan::clean(&lane);
                let next = || queue.lock().unwrap().pop_front();
                // A lane that has failed may be blocked; the others go on.
                for plan in std::iter::from_fn(next).chain([clean]) {
                    sessions.fetch_add(1, Ordering::Relaxed);
                    let complaints = lane.session(bridge, db, &plan);
                    if !complaints.is_empty() {
                        failures.lock().unwrap().insert(plan.seed, (plan, complaints));
                        break;
                    }
                }
            });
        }
    });
    report(&failures.into_inner().unwrap());
    // Connections for sessions that will not come. The ports stay: a pool goes on dialling them.
    for back in &backs {
        back.set_nonblocking(false).unwrap();
        serve(back, drop);
    }
    let sessions = sessions.into_inner();
    bridge.has_accounted_for(sessions as f64);
    until_it("the bridge holds no session's socket", || strays(&bridge), Vec::is_empty);
    if sessions > 40 {
        let spliced = bridge.metrics().sum("tidegate_bytes_total", &[("path", "splice")]);
        assert!(spliced > 0.0, "no session had bulk that was spliced");
        bridge.gives_back_its_fds(idle, sessions);
    }
    assert_eq!(bridge.close_records(sessions).len(), sessions, "one close record each");
    let metrics = bridge.metrics();
    // No task is left: the drain waits for nobody.
    bridge.signal(Signal::TERM);
    assert!(bridge.ends_within(Duration::from_secs(5)).success());
    Some(metrics)
}

#[test]
fn the_seeds_of_the_long_form_hold_every_kind_of_harm_in_every_place() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for plan in LONG.map(Plan::of) {
        let talk = match &plan.talk {
            Talk::Noise(noise) => format!("noise over {:?}", noise.protocol),
            Talk::Database { .. } => "a database".into(),
            Talk::NoServer(kind) => format!("no server: {kind:?}"),
        };
        *seen.entry(talk).or_default() += 1;
        for (place, course) in plan.courses() {
            let mut count = |what: &str| *seen.entry(format!("{what} {place}")).or_default() += 1;
            match course.cut {
                Some((_, Cut::Reset { settled: true })) => count("settled reset"),
                Some((_, Cut::Reset { settled: false })) => count("sudden reset"),
                Some((_, Cut::Truncate)) => count("truncation"),
                Some((_, Cut::HalfClose)) => count("half-close"),
                None => {}
            }
            if course.stall.is_some() {
                count("stall");
            }
            if course.delay.0 > 0 {
                count("delay");
            }
            if !course.single.is_empty() {
                count("single bytes");
            }
        }
    }
    // 3 kinds of talk, 9 without a server, 7 kinds of harm in 4 places.
    assert_eq!(seen.len(), 3 + 9 + 7 * 4, "{seen:#?}");
}

const LONG: RangeInclusive<u64> = 1..=300;

fn seeds() -> RangeInclusive<u64> {
    match env::var("TIDEGATE_TEST_SEED") {
        Err(_) => full_or(LONG, 1..=60),
        Ok(text) => {
            let (first, last) = text.split_once('-').unwrap_or((&text, &text));
            let number = |text: &str| text.parse().expect("TIDEGATE_TEST_SEED is N or N-M");
            number(first)..=number(last)
        }
    }
}

fn report(failures: &BTreeMap<u64, (Plan, Vec<String>)>) {
    if failures.is_empty() {
        return;
    }
    let mut text = format!("{} sessions failed", failures.len());
    for (seed, (plan, complaints)) in failures.iter().take(TOLD) {
        let _ = write!(text, "\n\nseed {seed}: {}", plan.words());
        for complaint in complaints {
            let _ = write!(text, "\n  - {complaint}");
        }
        let _ = write!(
            text,
            "\n  again: TIDEGATE_TEST_SEED={seed} TIDEGATE_TEST_THREADS={} cargo test --test campaign",
            threads()
        );
    }
    if failures.len() > TOLD {
        let _ =
            write!(text, "\n\nand the seeds {:?}", failures.keys().skip(TOLD).collect::<Vec<_>>());
    }
    panic!("{text}\n");
}

// What a seed means.

/// One session, as its seed has it.
#[derive(Debug, Clone)]
struct Plan {
    seed: u64,
    talk: Talk,
    front: Harm,
    back: Harm,
}

#[derive(Debug, Clone)]
enum Talk {
    Noise(NoiseTalk),
    Database { queries: u32, rows: u64 },
    NoServer(NoServer),
}

/// Two plain sockets that know each byte.
#[derive(Debug, Clone)]
struct NoiseTalk {
    protocol: Protocol,
    up: u64,
    down: u64,
    /// The largest piece that is written at once.
    piece: u64,
    closes: Closes,
    /// Whoever does not close first begins to talk only when the other one has closed.
    answers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Mysql,
}

/// Who closes first: the other one waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closes {
    Client,
    Server,
    Either,
}

/// Sessions for which no server can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoServer {
    Refused(Protocol),
    /// It accepts and says nothing.
    Silent,
    /// It accepts and closes or resets.
    Closes(Ending),
    /// It says nothing; the client leaves before or after it has accepted.
    ClientLeaves {
        by: Ending,
        at_once: bool,
    },
}

impl Plan {
    fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let talk = match dice.below(100) {
            0..40 => Talk::Noise(NoiseTalk::thrown(&mut dice, Protocol::Tcp)),
            40..66 => Talk::Noise(NoiseTalk::thrown(&mut dice, Protocol::Mysql)),
            66..84 => Talk::Database {
                queries: 1 + dice.below(3) as u32,
                rows: *dice.one_of(&[1, 30, 900, 9_000]),
            },
            _ => Talk::NoServer(NoServer::thrown(&mut dice)),
        };
        let mut plan = Self { seed, talk, front: Harm::default(), back: Harm::default() };
        if !matches!(plan.talk, Talk::NoServer(_)) {
            plan.cut(&mut dice);
            plan.slow_down(&mut dice);
        }
        plan
    }

    /// Whether a server speaks first, and is there.
    fn can_be_warm(&self) -> bool {
        match &self.talk {
            Talk::Noise(noise) => noise.protocol == Protocol::Mysql,
            Talk::Database { .. } => true,
            Talk::NoServer(_) => false,
        }
    }

    /// A session that nobody harms.
    fn clean(lane: &Lane) -> Self {
        let is_tcp = lane.pool == Pool::Off && lane.number.is_multiple_of(2);
        let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Mysql };
        let talk = match lane.number {
            0 => Talk::Database { queries: 2, rows: 100 },
            number if number < LANES - LANES_WITHOUT_SERVER => Talk::Noise(NoiseTalk {
                protocol,
                up: 10_000,
                down: 100_000,
                piece: 5_000,
                closes: Closes::Client,
                answers: true,
            }),
            _ => Talk::NoServer(NoServer::Refused(protocol)),
        };
        let seed = u64::MAX - lane.number as u64;
        Self { seed, talk, front: Harm::default(), back: Harm::default() }
    }

    /// About as many bytes as pass in a direction; exactly as many when it is noise.
    fn length(&self, upward: bool) -> u64 {
        match (&self.talk, upward) {
            (Talk::Noise(noise), true) => noise.up,
            (Talk::Noise(noise), false) => noise.down,
            (Talk::Database { queries, .. }, true) => 100 + 80 * u64::from(*queries),
            (Talk::Database { queries, rows }, false) => 200 + rows * 60 * u64::from(*queries),
            (Talk::NoServer(_), _) => 0,
        }
    }

    /// No end before its time in every fifth plan, two that race in every tenth.
    fn cut(&mut self, dice: &mut Dice) {
        let cuts = match dice.below(10) {
            0..2 => return,
            2..9 => 1,
            _ => 2,
        };
        let mut known_first = cuts == 1 && matches!(self.talk, Talk::Noise(_));
        for _ in 0..cuts {
            let bulk = [true, false].into_iter().find(|upward| self.length(*upward) > BULK);
            if let Some(upward) = bulk.filter(|_| dice.below(2) == 0) {
                // A reset by a reader that has kept the bridge waiting: a write meets it first.
                let course = self.course(!upward, upward);
                let cut = Cut::Reset { settled: dice.below(2) == 0 };
                let offset = 1 + dice.below(BULK / 8);
                (course.cut, course.stall) =
                    (Some((offset, cut)), Some((offset, milliseconds(400))));
                continue;
            }
            let (front, upward) = (dice.below(2) == 0, dice.below(2) == 0);
            let to_bridge = front == upward;
            let cut = match dice.below(6) {
                0..2 => Cut::Reset { settled: true },
                2 => Cut::Reset { settled: false },
                3 => Cut::Truncate,
                _ => Cut::HalfClose,
            };
            // Before the first byte the bridge may not yet have a server for the client.
            let length = self.length(upward);
            if length < 2 {
                known_first = false;
                continue;
            }
            let offset = match dice.below(6) {
                0 => 1,
                1 => length - 1,
                _ => 1 + dice.below(length - 1),
            };
            // Towards the far end a half-close is none of the bridge's business.
            known_first &= to_bridge || cut != Cut::HalfClose;
            *self.course(front, upward) = Course { cut: Some((offset, cut)), ..Course::default() };
        }
        if let Talk::Noise(noise) = &mut self.talk {
            noise.answers = false;
        }
        let hold = known_first && dice.below(4) > 0;
        self.front.hold = hold;
        self.back.hold = hold;
    }

    fn slow_down(&mut self, dice: &mut Dice) {
        for (front, upward) in [(true, true), (true, false), (false, true), (false, false)] {
            let length = self.length(upward);
            let (sink, bulk) = (front != upward, length > BULK);
            let course = self.course(front, upward);
            if dice.below(4) == 0 {
                course.delay = (1 + dice.below(8) as u32, milliseconds(1 + dice.below(15)));
            }
            if course.stall.is_some() {
                continue;
            }
            if bulk && sink {
                // Early and long enough for what is under way to fill every buffer.
                course.stall = Some((dice.below(length / 8), milliseconds(250 + dice.below(250))));
            } else if dice.below(4) == 0 {
                let offset = if dice.below(3) == 0 { 0 } else { dice.below(length + 1) };
                course.stall = Some((offset, milliseconds(20 + dice.below(400))));
            }
            if dice.below(4) == 0 {
                let start = dice.below(length + 1);
                course.single = start..start + 1 + dice.below(1_500);
            }
        }
    }

    fn course(&mut self, front: bool, upward: bool) -> &mut Course {
        let harm = if front { &mut self.front } else { &mut self.back };
        if front == upward { &mut harm.to_bridge } else { &mut harm.from_bridge }
    }

    fn courses(&self) -> [(&'static str, &Course); 4] {
        [
            ("between client and bridge, upward", &self.front.to_bridge),
            ("between client and bridge, downward", &self.front.from_bridge),
            ("between bridge and server, upward", &self.back.from_bridge),
            ("between bridge and server, downward", &self.back.to_bridge),
        ]
    }

    /// The only harm, and nothing else can end the session before it.
    fn lone_cut(&self) -> Option<(&'static str, Cut)> {
        let mut cuts =
            self.courses().into_iter().filter_map(|(place, course)| Some((place, course.cut?.1)));
        match (cuts.next(), cuts.next()) {
            (Some(cut), None) if self.front.hold => Some(cut),
            _ => None,
        }
    }

    fn words(&self) -> String {
        let mut words = format!("{:?}", self.talk);
        for (place, course) in self.courses() {
            if let Some((offset, cut)) = course.cut {
                let _ = write!(words, "; {cut:?} at byte {offset} {place}");
            }
            if let Some((offset, time)) = course.stall {
                let _ = write!(words, "; silent for {time:?} at byte {offset} {place}");
            }
            if course.delay.0 > 0 {
                let _ = write!(
                    words,
                    "; {} reads delayed by {:?} {place}",
                    course.delay.0, course.delay.1
                );
            }
            if !course.single.is_empty() {
                let _ = write!(words, "; bytes {:?} one at a time {place}", course.single);
            }
        }
        if self.front.hold {
            words.push_str("; no end is passed on before that");
        }
        words
    }
}

/// Longer than a socket's buffers on loopback, which take 3 MB.
const BULK: u64 = 4_000_000;

impl NoiseTalk {
    fn thrown(dice: &mut Dice, protocol: Protocol) -> Self {
        let length = |dice: &mut Dice| match dice.below(16) {
            0 => 0,
            1..6 => 1 + dice.below(200),
            6..10 => 1 + dice.below(20_000),
            10..14 => 1 + dice.below(400_000),
            _ => BULK + 1 + dice.below(2_000_000),
        };
        let (up, down) = (length(dice), length(dice));
        Self {
            protocol,
            // A MySQL client that says nothing is one that leaves before the login: see `judge`.
            up: if protocol == Protocol::Mysql { up.max(1) } else { up },
            down: if protocol == Protocol::Mysql { down + GREETING.len() as u64 } else { down },
            piece: if up.max(down) < BULK { 1 + dice.below(6_000) } else { 100_000 },
            closes: *dice.one_of(&[Closes::Client, Closes::Server, Closes::Either]),
            answers: dice.below(2) == 0,
        }
    }
}

impl NoServer {
    fn thrown(dice: &mut Dice) -> Self {
        *dice.one_of(&[
            Self::Refused(Protocol::Tcp),
            Self::Refused(Protocol::Mysql),
            Self::Silent,
            Self::Closes(Ending::Eof),
            Self::Closes(Ending::Reset),
            Self::ClientLeaves { by: Ending::Eof, at_once: true },
            Self::ClientLeaves { by: Ending::Eof, at_once: false },
            Self::ClientLeaves { by: Ending::Reset, at_once: true },
            Self::ClientLeaves { by: Ending::Reset, at_once: false },
        ])
    }
}

struct Dice(Noise);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        // Near seeds give near numbers at first.
        for _ in 0..16 {
            noise.number();
        }
        Self(noise)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.0.number() >> 16) % limit
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

// Bytes that both ends know, and the ends.

/// As good as any to a bridge that passes it on.
const GREETING: &[u8] = b"\x4f\x00\x00\x00\x0a8.0.36-test\0\x01\x00\x00\x00abcdefgh\0\xff\xff\xff\x02\x00\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";

/// An endless stream of bytes: a head, then a ring of noise, entered where the seed says.
#[derive(Clone, Copy)]
struct Sound {
    head: &'static [u8],
    start: u64,
}

impl Sound {
    fn upward(seed: u64) -> Self {
        Self { head: &[], start: Dice::new(seed).below(1 << 40) }
    }

    fn downward(seed: u64, protocol: Protocol) -> Self {
        let head = if protocol == Protocol::Mysql { GREETING } else { &[] };
        Self { head, start: Dice::new(!seed).below(1 << 40) }
    }

    /// Some of the bytes from `at` on, at least one.
    fn from(&self, at: u64) -> &'static [u8] {
        static RING: OnceLock<Vec<u8>> = OnceLock::new();
        let head = self.head.len() as u64;
        if at < head {
            return &self.head[at as usize..];
        }
        let ring = RING.get_or_init(|| {
            // A prime, so that no power of two of bytes can be missing unnoticed.
            let mut ring = Noise::new(1).bytes(1_000_000);
            ring.truncate(999_983);
            ring
        });
        &ring[((self.start + at - head) % ring.len() as u64) as usize..]
    }

    /// The offset in `bytes` of the first one that is not what it should be at `at`.
    fn differs(&self, mut at: u64, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            let expected = self.from(at);
            let length = bytes.len().min(expected.len());
            if bytes[..length] != expected[..length] {
                let same = bytes.iter().zip(expected).take_while(|(one, other)| one == other);
                return Some(at + same.count() as u64);
            }
            at += length as u64;
            bytes = &bytes[length..];
        }
        None
    }
}

/// What one end of a talk does.
struct Part {
    says: Sound,
    length: u64,
    hears: Sound,
    piece: u64,
    /// After so many bytes it waits until it has heard so many, or the end.
    gate: (u64, u64),
    /// It closes when it has heard the other one close.
    closes_last: bool,
}

/// What it met.
#[derive(Default)]
struct Met {
    said: u64,
    heard: u64,
    /// Where the first wrong byte was.
    wrong: Option<u64>,
    /// What it heard first.
    first: Vec<u8>,
    end: Option<Ending>,
}

impl fmt::Debug for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "said {}, heard {}, then {:?}", self.said, self.heard, self.end)
    }
}

impl NoiseTalk {
    fn client(&self, seed: u64) -> Part {
        let greeting = if self.protocol == Protocol::Mysql { GREETING.len() as u64 } else { 0 };
        let waits = self.answers && self.closes == Closes::Server;
        Part {
            says: Sound::upward(seed),
            length: self.up,
            hears: Sound::downward(seed, self.protocol),
            piece: self.piece,
            gate: (0, if waits { u64::MAX } else { greeting }),
            closes_last: self.closes == Closes::Server,
        }
    }

    fn server(&self, seed: u64) -> Part {
        let says = Sound::downward(seed, self.protocol);
        let bytes = match self.closes {
            Closes::Client if self.answers => u64::MAX,
            Closes::Server if self.answers => 0,
            // A server that hears the client knows that the bridge has found it.
            _ => self.up.min(1),
        };
        Part {
            says,
            length: self.down,
            hears: Sound::upward(seed),
            piece: self.piece,
            gate: (says.head.len() as u64, bytes),
            closes_last: self.closes == Closes::Client,
        }
    }
}

async fn talk(mut stream: TcpStream, part: Part, met: &RefCell<Met>) {
    stream.set_nodelay(true).unwrap();
    let (mut from, mut to) = stream.split();
    let progress = watch::Sender::new((0, false));
    let hearing = async {
        let mut buffer = vec![0; 64 * 1024];
        let end = loop {
            match from.read(&mut buffer).await {
                Ok(0) => break Ending::Eof,
                Ok(count) => {
                    let mut met = met.borrow_mut();
                    let at = met.heard;
                    met.heard += count as u64;
                    met.wrong = met.wrong.or_else(|| part.hears.differs(at, &buffer[..count]));
                    if met.first.len() < 100 {
                        met.first.extend(&buffer[..count.min(400)]);
                    }
                    progress.send_replace((met.heard, false));
                }
                Err(_) => break Ending::Reset,
            }
        };
        met.borrow_mut().end = Some(end);
        progress.send_modify(|progress| progress.1 = true);
    };
    let talking = async {
        let mut progress = progress.subscribe();
        let mut pass = async |bytes| {
            progress.wait_for(|(heard, ended)| *heard >= bytes || *ended).await.map(drop).unwrap();
        };
        let (gate, bytes) = part.gate;
        if gate == 0 {
            pass(bytes).await;
        }
        while met.borrow().said < part.length {
            let at = met.borrow().said;
            if at == gate && at > 0 {
                pass(bytes).await;
            }
            let mut room = (part.length - at).min(part.piece);
            if at < gate {
                room = room.min(gate - at);
            }
            let bytes = part.says.from(at);
            let Ok(count) = to.write(&bytes[..bytes.len().min(room as usize)]).await else {
                return;
            };
            met.borrow_mut().said += count as u64;
        }
        if part.closes_last {
            pass(u64::MAX).await;
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(hearing, talking);
}

// Lanes, and a session on one.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Way {
    ToServer(Protocol),
    ToNobody(Protocol),
}

impl Way {
    const ALL: [Self; 4] = [
        Self::ToServer(Protocol::Tcp),
        Self::ToServer(Protocol::Mysql),
        Self::ToNobody(Protocol::Tcp),
        Self::ToNobody(Protocol::Mysql),
    ];

    fn listener(self, lane: usize) -> String {
        format!("{self:?}-{lane}").replace(['(', ')'], "-").to_lowercase()
    }

    fn upstream(self, lane: usize) -> String {
        match self {
            Self::ToServer(_) => format!("server-{lane}"),
            Self::ToNobody(_) => format!("nobody-{lane}"),
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::ToServer(Protocol::Tcp) | Self::ToNobody(Protocol::Tcp) => "tcp",
            Self::ToServer(Protocol::Mysql) | Self::ToNobody(Protocol::Mysql) => "mysql",
        }
    }
}

/// Whether the bridge has a connection to a lane's server before its session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Off,
    Warm,
}

struct Lane {
    number: usize,
    pool: Pool,
    runtime: tokio::runtime::Runtime,
    /// What the bridge takes for a server.
    back: std::net::TcpListener,
    entries: HashMap<Way, SocketAddr>,
    /// Close records so far, and the last scrape.
    records: HashMap<Way, usize>,
    series: HashMap<Way, Series>,
}

type Series = BTreeMap<String, f64>;

/// The relay that may end before the bridge has seen the client.
const BEFORE: &str = "the relay before the bridge";

/// Starts a bridge with the listeners and upstreams of all lanes.
fn open(nobody: SocketAddr, pool: Pool) -> (Bridge, Vec<Lane>) {
    let mut toml = "admin = \"127.0.0.1:0\"\nstall_timeout = \"3s\"\n".to_owned();
    let (mut upstreams, mut backs) = (String::new(), Vec::new());
    for lane in 0..LANES {
        let back = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        back.set_nonblocking(true).unwrap();
        for way in ways(lane) {
            let (name, upstream) = (way.listener(lane), way.upstream(lane));
            let protocol = way.protocol();
            let _ = write!(
                toml,
                "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\n\
                 upstream = \"{upstream}\"\nprotocol = \"{protocol}\"\n"
            );
            if pool == Pool::Warm && *way == Way::ToServer(Protocol::Mysql) {
                toml.push_str("pool = \"warm\"\n");
            }
        }
        // Patient where the server is only slow, or where nobody waits for it yet.
        let deadline = match (lane < LANES - LANES_WITHOUT_SERVER, pool) {
            (true, Pool::Off) => "8s",
            (true, Pool::Warm) => "5m",
            (false, _) => "1s",
        };
        let mut gateways = vec![("server", back.local_addr().unwrap())];
        if lane >= LANES - LANES_WITHOUT_SERVER {
            gateways.push(("nobody", nobody));
        }
        for (name, gateway) in gateways {
            let _ = write!(
                upstreams,
                "[upstream.{name}-{lane}]\ngateway = \"{gateway}\"\ndial_deadline = \"{deadline}\"\n"
            );
            if pool == Pool::Warm && lane < LANES - LANES_WITHOUT_SERVER {
                upstreams.push_str("warm_min = 1\nwarm_max_age = \"1m\"\n");
            }
        }
        backs.push(back);
    }
    let bridge = Bridge::from_file(&(toml + &upstreams)).start();
    let mut listening = bridge.listening.iter();
    let lane = |(number, back)| Lane {
        number,
        pool,
        runtime: runtime(),
        back,
        entries: ways(number).iter().map(|way| (*way, *listening.next().unwrap())).collect(),
        records: HashMap::new(),
        series: HashMap::new(),
    };
    let lanes = backs.into_iter().enumerate().map(lane).collect();
    (bridge, lanes)
}

fn ways(lane: usize) -> &'static [Way] {
    if lane < LANES - LANES_WITHOUT_SERVER { &Way::ALL[..2] } else { &Way::ALL }
}

/// What the people and relays of one session have to tell.
#[derive(Default)]
struct Story {
    client: RefCell<Met>,
    server: RefCell<Met>,
    /// Of a database's client: the answers it got, and what was wrong with them.
    answers: RefCell<Answers>,
    /// The inodes of the bridge's two sockets.
    inodes: RefCell<Vec<String>>,
    /// Who has come to an end.
    ended: RefCell<Vec<&'static str>>,
    took: Duration,
}

#[derive(Default)]
struct Answers {
    complete: u32,
    wrong: Option<String>,
}

impl Story {
    async fn of(&self, who: &'static str, does: impl Future<Output = io::Result<()>>) {
        // A socket error is part of the harm; whoever is missed will be asked for.
        let _ = does.await;
        self.ended.borrow_mut().push(who);
    }
}

impl Lane {
    /// Runs one session and returns what was wrong with it.
    fn session(&mut self, bridge: &Bridge, db: &MariaDb, plan: &Plan) -> Vec<String> {
        let way = match &plan.talk {
            Talk::Noise(noise) => Way::ToServer(noise.protocol),
            Talk::Database { .. } => Way::ToServer(Protocol::Mysql),
            Talk::NoServer(NoServer::Refused(protocol)) => Way::ToNobody(*protocol),
            Talk::NoServer(_) => Way::ToServer(Protocol::Mysql),
        };
        let before = self.series.remove(&way).unwrap_or_else(|| self.scrape(bridge, way));
        let (front, back) = (Relay::new(plan.front.clone()), Relay::new(plan.back.clone()));
        let started = Instant::now();
        let mut story = Story::default();
        let everybody = match &plan.talk {
            Talk::NoServer(kind) => self.run_without_server(bridge, *kind, way, &story),
            _ => self.run(bridge, plan, db, way, (&front, &back), &story),
        };
        let mut complaints = Complaints::default();
        if let Err(missing) = everybody {
            let (front, back) = (front.account(), back.account());
            complaints.push(format!(
                "no end within {BOUND:?}, still waiting: {missing}; close records: {}; {}",
                self.new_records(bridge, way).len(),
                stuck(&front, &back)
            ));
            complaints.explain(&story, &front, &back);
            return complaints.0;
        }
        story.took = started.elapsed();

        let Some(record) = self.record(bridge, way) else {
            complaints.push("no close record, or more than one".into());
            return complaints.0;
        };
        let after = self.scrape(bridge, way);
        match &plan.talk {
            Talk::NoServer(kind) => judge_without_server(*kind, &story, &record, &mut complaints),
            _ => judge(plan, (&front.account(), &back.account()), &story, &record, &mut complaints),
        }
        judge_series(&before, &after, &way.listener(self.number), &record, &mut complaints);
        self.series.insert(way, after);
        complaints.extend(leftovers(bridge, &story.inodes.borrow()));
        complaints.explain(&story, &front.account(), &back.account());
        complaints.0
    }

    fn run(
        &self,
        bridge: &Bridge,
        plan: &Plan,
        db: &MariaDb,
        way: Way,
        (front, back): (&Relay, &Relay),
        story: &Story,
    ) -> Result<(), String> {
        let entry = self.entries[&way];
        self.runtime.block_on(async {
            let (entrance, entrance_address) = listen().await;
            let (server, server_address) = listen().await;
            let server_address = match plan.talk {
                Talk::Database { .. } => db.address(),
                _ => server_address,
            };
            let bridges = TcpListener::from_std(self.back.try_clone().unwrap()).unwrap();
            let entered = Cell::new(None);
            let ready = watch::Sender::new(self.pool == Pool::Off);
            let before = story.of(BEFORE, async {
                let (client, _) = entrance.accept().await?;
                ready.subscribe().wait_for(|ready| *ready).await.unwrap();
                let bridge = TcpStream::connect(entry).await?;
                entered.set(Some(bridge.local_addr()?));
                front.run(bridge, client).await;
                Ok(())
            });
            let behind = story.of("the relay behind the bridge", async {
                let (mut near, dialler) = bridges.accept().await?;
                let mut far = TcpStream::connect(server_address).await?;
                if self.pool == Pool::Warm {
                    back.greet(&mut near, &mut far).await?;
                    wait_until(|| self.held(bridge) == 1.0).await;
                    ready.send_replace(true);
                    // The session's from here on, unless its client has left before it had one.
                    let has_left = || story.ended.borrow().contains(&BEFORE);
                    let is_lent = || entered.get().is_some() && self.held(bridge) == 0.0;
                    wait_until(|| is_lent() || has_left()).await;
                }
                // It has accepted one and dialled the other; both are whole now. A port may be that of
                // other connections, too.
                let ends = [(entry, entered.get().unwrap()), (dialler, near.local_addr()?)];
                let mine = rows().into_iter().filter(|row| ends.contains(&(row.local, row.remote)));
                story.inodes.borrow_mut().extend(mine.map(|row| row.inode));
                back.run(near, far).await;
                Ok(())
            });
            let client = story.of("the client", async {
                match &plan.talk {
                    Talk::Database { queries, rows } => {
                        ask(db, entrance_address, *queries, *rows, &story.answers).await;
                    }
                    Talk::Noise(noise) => {
                        let stream = TcpStream::connect(entrance_address).await?;
                        talk(stream, noise.client(plan.seed), &story.client).await;
                    }
                    Talk::NoServer(_) => {}
                }
                Ok(())
            });
            let served = story.of("the server", async {
                if let Talk::Noise(noise) = &plan.talk {
                    let (stream, _) = server.accept().await?;
                    talk(stream, noise.server(plan.seed), &story.server).await;
                }
                Ok(())
            });
            let everybody = async { tokio::join!(before, behind, client, served) };
            in_time(everybody, 4, story).await
        })
    }

    /// Connections that wait for a client.
    fn held(&self, bridge: &Bridge) -> f64 {
        let upstream = Way::ToServer(Protocol::Mysql).upstream(self.number);
        let labels = [("upstream", upstream.as_str()), ("state", "idle")];
        bridge.metrics().sum("tidegate_pool_connections", &labels)
    }

    fn run_without_server(
        &self,
        bridge: &Bridge,
        kind: NoServer,
        way: Way,
        story: &Story,
    ) -> Result<(), String> {
        let entry = self.entries[&way];
        let dialled = watch::Sender::new(false);
        self.runtime.block_on(async {
            let client = story.of("the client", async {
                let Ok(mut stream) = TcpStream::connect(entry).await else {
                    // The bridge's reset was there before we looked.
                    story.client.borrow_mut().end = Some(Ending::Reset);
                    return Ok(());
                };
                if let NoServer::ClientLeaves { by, at_once } = kind {
                    if !at_once {
                        dialled.subscribe().wait_for(|dialled| *dialled).await.unwrap();
                    }
                    match by {
                        Ending::Eof => stream.shutdown().await?,
                        Ending::Reset => {
                            stream.set_zero_linger()?;
                            drop(stream);
                            // The server stays for as long as the bridge may dial.
                            while self.new_records(bridge, way).is_empty() {
                                sleep(milliseconds(5)).await;
                            }
                            return Ok(());
                        }
                    }
                }
                let mut first = Vec::new();
                let end = stream.read_to_end(&mut first).await;
                let end = if end.is_ok() { Ending::Eof } else { Ending::Reset };
                let mut met = story.client.borrow_mut();
                (met.first, met.end) = (first, Some(end));
                Ok(())
            });
            let bridges = TcpListener::from_std(self.back.try_clone().unwrap()).unwrap();
            let server = async {
                loop {
                    let Ok((mut stream, _)) = bridges.accept().await else { return };
                    dialled.send_replace(true);
                    match kind {
                        NoServer::Closes(Ending::Eof) => drop(stream),
                        NoServer::Closes(Ending::Reset) => stream.set_zero_linger().unwrap(),
                        // Until the bridge gives up.
                        _ => drop(stream.read(&mut [0; 100]).await),
                    }
                }
            };
            let everybody = async {
                tokio::select! {
                    () = client => {}
                    () = server => {}
                }
            };
            in_time(everybody, 1, story).await
        })
    }

    /// The close record of the session that has just ended.
    fn record(&mut self, bridge: &Bridge, way: Way) -> Option<CloseRecord> {
        let deadline = Instant::now() + BOUND;
        let mut records = loop {
            let records = self.new_records(bridge, way);
            if !records.is_empty() || Instant::now() > deadline {
                break records;
            }
            thread::sleep(milliseconds(5));
        };
        *self.records.entry(way).or_default() += records.len();
        if records.len() == 1 { records.pop() } else { None }
    }

    fn new_records(&self, bridge: &Bridge, way: Way) -> Vec<CloseRecord> {
        let name = way.listener(self.number);
        let known = self.records.get(&way).copied().unwrap_or_default();
        let mine = |record: &CloseRecord| record.text("listener") == name;
        bridge.close_records(0).into_iter().filter(mine).skip(known).collect()
    }

    /// The series of one listener and its upstream.
    fn scrape(&self, bridge: &Bridge, way: Way) -> Series {
        let reply = bridge.get("/metrics");
        assert_eq!(reply.status, 200);
        let names = [way.listener(self.number), way.upstream(self.number)];
        let names = names.map(|name| format!("=\"{name}\""));
        let mine = |line: &&str| names.iter().any(|name| line.contains(name));
        let lines = reply.body.lines().filter(mine).filter_map(|line| line.rsplit_once(' '));
        lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The time is up for everybody together.
async fn wait_until(holds: impl Fn() -> bool) {
    while !holds() {
        sleep(milliseconds(2)).await;
    }
}

/// Waits for everybody; who is missing when the time is up.
async fn in_time<T>(
    everybody: impl Future<Output = T>,
    count: usize,
    story: &Story,
) -> Result<(), String> {
    if timeout(BOUND, everybody).await.is_ok() {
        return Ok(());
    }
    let all = ["the client", BEFORE, "the relay behind the bridge", "the server"];
    let ended = story.ended.borrow();
    let missing = all.into_iter().take(count).filter(|who| !ended.contains(who));
    Err(missing.collect::<Vec<_>>().join(", "))
}

/// Asks a database and checks each row of each answer.
async fn ask(db: &MariaDb, at: SocketAddr, queries: u32, rows: u64, answers: &RefCell<Answers>) {
    let all = async {
        let mut conn = mysql_async::Conn::new(mysql_async::Opts::from(db.opts(at.port()))).await?;
        for _ in 0..queries {
            let sql = format!("SELECT seq, REPEAT(CONCAT(seq, '.'), 10) FROM seq_1_to_{rows}");
            let mut result = conn.query_iter(sql).await?;
            let mut count = 0;
            while let Some(row) = result.next().await? {
                count += 1;
                let (number, text): (u64, String) = mysql_async::from_row(row);
                if number != count || text != format!("{count}.").repeat(10) {
                    answers.borrow_mut().wrong = Some(format!("row {count} is {number}: {text}"));
                }
            }
            drop(result);
            if count != rows {
                answers.borrow_mut().wrong = Some(format!("{count} of {rows} rows and no error"));
            }
            answers.borrow_mut().complete += 1;
        }
        conn.disconnect().await
    };
    // Whether an error is right is seen from the answers that are missing.
    let _: Result<(), mysql_async::Error> = all.await;
}

// The oracle.

#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn push(&mut self, complaint: String) {
        self.0.push(complaint);
    }

    fn extend(&mut self, complaints: impl IntoIterator<Item = String>) {
        self.0.extend(complaints);
    }

    /// Says what was seen at the four places, if there is anything to explain.
    fn explain(&mut self, story: &Story, front: &Account, back: &Account) {
        if !self.0.is_empty() {
            let (client, server) = (story.client.borrow(), story.server.borrow());
            self.push(format!(
                "seen by the client: {client:?}\n    by the relay before the bridge: {front:?}\n    \
                 by the relay behind it: {back:?}\n    by the server: {server:?}"
            ));
        }
    }

    fn unless(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.0.push(complaint());
        }
    }
}

/// Side and reason of a close record.
type Cause = (&'static str, &'static str);

/// What the bridge may say, given what was done to it.
///
/// | done to the bridge                        | side and reason                            |
/// | ----------------------------------------- | ------------------------------------------ |
/// | a reset on one side                       | that side, reset                           |
/// | resets on both sides                      | either                                     |
/// | a reset, when both sides have had a FIN   | also what the FINs say: it may be too late |
/// | a FIN on one side before the bridge's own | that side, eof                             |
/// | FINs on both sides, neither an answer     | either side, eof                           |
/// | a reset before the dial was complete      | upstream, unreachable                      |
fn causes(front: &Account, back: &Account, connected: bool) -> Vec<Cause> {
    let first = Some(Order::First);
    let sides = [(front, "client"), (back, "upstream")];
    let mut causes = Vec::new();
    for (account, side) in sides {
        if account.reset == first {
            causes.push((side, "reset"));
        }
    }
    if !connected && back.reset == first {
        causes.push(("upstream", "unreachable"));
    }
    if causes.is_empty() || (front.fin.is_some() && back.fin.is_some()) {
        let closed = sides.into_iter().filter(|(account, _)| account.fin == first);
        causes.extend(closed.map(|(_, side)| (side, "eof")));
    }
    causes
}

fn judge(
    plan: &Plan,
    (front, back): (&Account, &Account),
    story: &Story,
    record: &CloseRecord,
    complaints: &mut Complaints,
) {
    let connected = !record.0["endpoint"].is_null();
    let cause = (record.text("side"), record.text("reason"));
    let allowed = causes(front, back, connected);
    complaints.unless(allowed.contains(&cause), || {
        format!("close record: {}/{} where the relays' doings allow {allowed:?}", cause.0, cause.1)
    });
    if let Some((place, cut)) = plan.lone_cut() {
        let reached = [front, back].iter().any(|account| account.cuts.contains(&cut));
        complaints.unless(reached, || format!("{cut:?} {place} was never reached"));
        let side = if place.contains("client") { "client" } else { "upstream" };
        let reason = if matches!(cut, Cut::Reset { .. }) { "reset" } else { "eof" };
        let expected = !connected || cause == (side, reason);
        complaints.unless(expected, || {
            format!("close record: {}/{} instead of {side}/{reason}", cause.0, cause.1)
        });
    }
    let is_mysql = !matches!(&plan.talk, Talk::Noise(talk) if talk.protocol == Protocol::Tcp);
    if is_mysql && front.sent == 0 {
        // A client that left before it said a word. The bridge may take leave of the server in its
        // own words, so that the server does not count an interrupted login.
        let told = record.number("bytes_to_upstream");
        complaints.unless(told == 0.0, || format!("{told} bytes of a client that said none"));
        return;
    }
    judge_endings((front, back), cause, connected, complaints);
    judge_counts((front, back), record, connected, complaints);
    judge_content(plan, (front, back), story, connected, complaints);
}

/// A reset goes through the bridge as a reset, and an end as an end.
fn judge_endings(
    (front, back): (&Account, &Account),
    cause: (&str, &str),
    connected: bool,
    complaints: &mut Complaints,
) {
    let sides = [("client", front, "server", back), ("upstream", back, "client", front)];
    for (side, account, other, told) in sides {
        if cause == (side, "reset") && connected && account.fin.is_none() {
            complaints.unless(told.end != Some(Ending::Eof), || {
                format!("the {side}'s reset reached the {other} as an orderly end")
            });
        }
    }
    if front.reset != Some(Order::First) && back.reset != Some(Order::First) {
        for (account, other) in [(front, "client"), (back, "server")] {
            complaints.unless(account.end != Some(Ending::Reset) && !account.refused, || {
                format!("nobody reset anything, but the bridge reset the {other} while it talked")
            });
        }
    }
}

/// The record's byte counts lie between what was sent to the bridge and what it was heard to say,
/// and meet them where nothing got lost on the way.
fn judge_counts(
    (front, back): (&Account, &Account),
    record: &CloseRecord,
    connected: bool,
    complaints: &mut Complaints,
) {
    for (field, source, sink) in
        [("bytes_to_upstream", front, back), ("bytes_to_client", back, front)]
    {
        let told = record.number(field) as u64;
        let complain = |what: &str, number: u64| format!("{field} is {told}, but {number} {what}");
        complaints.unless(told <= source.sent, || complain("were sent to the bridge", source.sent));
        if !connected {
            continue;
        }
        complaints.unless(told >= sink.heard, || complain("came out of the bridge", sink.heard));
        if sink.end.is_some() && sink.reset != Some(Order::First) {
            complaints.unless(told == sink.heard, || {
                complain("came out of the bridge until its end", sink.heard)
            });
        }
        let settled = !source.unsettled && sink.reset != Some(Order::First);
        complaints.unless(told == source.sent || !settled, || {
            complain("had reached it, with nothing to stop them", source.sent)
        });
    }
}

/// What arrives is right, and all of it arrives where nothing was cut.
fn judge_content(
    plan: &Plan,
    (front, back): (&Account, &Account),
    story: &Story,
    connected: bool,
    complaints: &mut Complaints,
) {
    let broken = [front, back].iter().any(|account| {
        account.reset == Some(Order::First)
            || account.cuts.iter().any(|cut| !matches!(cut, Cut::HalfClose))
    });
    let cut = |course: &Course| course.cut.is_some();
    let up = broken || cut(&plan.front.to_bridge) || cut(&plan.back.from_bridge);
    let down = broken || cut(&plan.back.to_bridge) || cut(&plan.front.from_bridge);
    match &plan.talk {
        Talk::Noise(noise) => {
            let (client, server) = (story.client.borrow(), story.server.borrow());
            for (met, length, who, cut) in
                [(&client, noise.down, "client", down), (&server, noise.up, "server", up)]
            {
                if who == "client" && !connected {
                    complaints.unless(met.first.is_empty() || is_apology(&met.first), || {
                        format!("without a server the client heard {:?}", met.first)
                    });
                    continue;
                }
                if let Some(at) = met.wrong {
                    complaints.push(format!("the {who}'s byte {at} is not the one that was sent"));
                }
                complaints.unless(
                    cut || (met.heard, met.end) == (length, Some(Ending::Eof)),
                    || {
                        let (heard, end) = (met.heard, met.end);
                        format!(
                            "nothing cut it, but the {who} heard {heard} of {length}, then {end:?}"
                        )
                    },
                );
            }
        }
        Talk::Database { queries, .. } => {
            let answers = story.answers.borrow();
            complaints.extend(answers.wrong.clone());
            complaints.unless(up || down || answers.complete == *queries, || {
                format!("nothing cut it, but it got {} of {queries} answers", answers.complete)
            });
        }
        Talk::NoServer(_) => {}
    }
}

fn judge_without_server(
    kind: NoServer,
    story: &Story,
    record: &CloseRecord,
    complaints: &mut Complaints,
) {
    let expected = match kind {
        NoServer::ClientLeaves { by: Ending::Eof, .. } => ("client", "eof"),
        NoServer::ClientLeaves { by: Ending::Reset, .. } => ("client", "reset"),
        _ => ("upstream", "unreachable"),
    };
    let cause = (record.text("side"), record.text("reason"));
    complaints
        .unless(cause == expected, || format!("close record: {cause:?} instead of {expected:?}"));
    for field in ["bytes_to_upstream", "bytes_to_client"] {
        let told = record.number(field);
        complaints.unless(told == 0.0, || format!("{field} is {told}, but nobody said anything"));
    }
    let met = story.client.borrow();
    let met = (&met.first[..], met.end);
    let fits = match (kind, met) {
        (NoServer::ClientLeaves { by: Ending::Reset, .. }, (_, end)) => end.is_none(),
        (NoServer::ClientLeaves { .. }, (said, end)) => said.is_empty() && end.is_some(),
        (NoServer::Refused(Protocol::Tcp), (said, end)) => said.is_empty() && end.is_some(),
        (_, (said, end)) => is_apology(said) && end == Some(Ending::Eof),
    };
    complaints.unless(fits, || format!("the client met {met:?}"));
    let took = story.took;
    complaints
        .unless(took < PATIENCE / 6, || format!("the dial deadline is 1 s, it took {took:?}"));
}

/// Whether it is one ERR packet of the bridge.
fn is_apology(said: &[u8]) -> bool {
    let whole =
        said.len() > 4 && said.len() - 4 == usize::from(said[0]) + 256 * usize::from(said[1]);
    whole && said[3..5] == [0, 0xff] && said.windows(9).any(|part| part == b"tidegate:")
}

/// Each series has moved by what one session is worth.
fn judge_series(
    before: &Series,
    after: &Series,
    listener: &str,
    record: &CloseRecord,
    complaints: &mut Complaints,
) {
    let moved = |name: &str, with: &[String]| -> f64 {
        let fits = |key: &str| {
            let (own, labels) = key.split_once('{').unwrap_or((key, ""));
            own == name && with.iter().all(|label| labels.contains(label))
        };
        let sum = |series: &Series| -> f64 {
            series.iter().filter(|(key, _)| fits(key)).map(|(_, value)| value).sum()
        };
        sum(after) - sum(before)
    };
    let mine = format!("listener=\"{listener}\"");
    let label = |name: &str, value: &str| format!("{name}=\"{value}\"");
    let connected = f64::from(!record.0["endpoint"].is_null());
    let (side, reason) = (record.text("side"), record.text("reason"));
    let this_end = vec![mine.clone(), label("side", side), label("reason", reason)];
    let bytes = |direction| vec![mine.clone(), label("direction", direction)];
    let expected = [
        ("tidegate_connections_total", vec![mine.clone()], 1.0),
        ("tidegate_connections_open", vec![mine.clone()], 0.0),
        ("tidegate_connections_closed_total", vec![mine.clone()], 1.0),
        ("tidegate_connections_closed_total", this_end, 1.0),
        ("tidegate_connection_seconds_count", vec![mine.clone()], 1.0),
        ("tidegate_connect_seconds_count", vec![mine.clone()], connected),
        ("tidegate_bytes_total", bytes("client_to_upstream"), record.number("bytes_to_upstream")),
        ("tidegate_bytes_total", bytes("upstream_to_client"), record.number("bytes_to_client")),
    ];
    for (name, labels, worth) in expected {
        let moved = moved(name, &labels);
        complaints.unless(moved == worth, || {
            format!("{name}{{{}}} moved by {moved} instead of {worth}", labels.join(","))
        });
    }
    let open: f64 = after
        .iter()
        .filter(|(key, _)| key.starts_with("tidegate_connections_open"))
        .map(|(_, value)| value)
        .sum();
    complaints.unless(open == 0.0, || format!("{open} connections are open on its listener"));
}

/// Where a session that does not end has got stuck.
fn stuck(front: &Account, back: &Account) -> String {
    let mut words = Vec::new();
    for (from, to, who, whom) in
        [(front, back, "client", "server"), (back, front, "server", "client")]
    {
        if from.reset.is_some() && to.end.is_none() {
            words.push(format!(
                "the {who}'s reset went into the bridge and did not reach the {whom}"
            ));
        } else if from.fin.is_some() && to.end.is_none() {
            words
                .push(format!("the {who}'s FIN went into the bridge and did not reach the {whom}"));
        } else if from.sent > to.heard {
            words.push(format!(
                "{} of the {who}'s {} bytes did not come out of the bridge",
                from.sent - to.heard,
                from.sent
            ));
        }
    }
    words.join("; ")
}

/// Sockets of a session that the bridge still holds.
fn leftovers(bridge: &Bridge, inodes: &[String]) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let held = held(bridge);
        let left: Vec<_> = inodes.iter().filter(|inode| held.contains(inode)).collect();
        if left.is_empty() {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!("the bridge has not closed {} of its sockets", left.len()));
        }
        thread::sleep(milliseconds(5));
    }
}

/// The sockets that the bridge holds, other than those that listen and those for its own signals.
///
/// One that has no row was reset or closed by its peer, and not closed by the bridge.
fn strays(bridge: &Bridge) -> Vec<String> {
    let mut held = held(bridge);
    let unix = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    held.retain(|inode| !unix.lines().any(|line| line.split(' ').any(|word| word == inode)));
    let rows = rows();
    let listens = |inode: &String| rows.iter().any(|row| row.inode == *inode && row.listens);
    held.retain(|inode| !listens(inode));
    let describe = |inode| match rows.iter().find(|row| row.inode == inode) {
        Some(row) => format!("one between {} and {}", row.local, row.remote),
        None => "one that its peer has closed".into(),
    };
    held.into_iter().map(describe).collect()
}

/// The inodes of all sockets of the bridge.
fn held(bridge: &Bridge) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", bridge.pid())).unwrap().flatten();
    let names = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |name: PathBuf| {
        Some(name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    names.filter_map(inode).collect()
}
