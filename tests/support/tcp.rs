//! Plain sockets with deadlines, and bytes that can be checked without being kept.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::{PATIENCE, until};

/// An upstream to be: a listener on a free loopback port.
pub fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// A loopback address at which nobody listens.
///
/// The port is bound, but not listened on, for as long as the socket is held: so nobody else gets it.
pub fn nobody() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

/// A port for somebody who cannot be told to pick one.
///
/// It is outside the range from which the kernel takes ports for clients, so that a server that was
/// killed finds its port still free.
pub fn free_port() -> u16 {
    static PORTS: OnceLock<Mutex<Noise>> = OnceLock::new();
    let ports = PORTS.get_or_init(|| Mutex::new(Noise::new(u64::from(process::id()))));
    until("a free port", || {
        let port = 20_000 + (ports.lock().unwrap().number() % 10_000) as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => Some(port),
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            Err(error) => panic!("bind: {error}"),
        }
    })
}

/// Listens at all of these addresses at one port: none that the kernel gives to another test.
pub fn listen_at(hosts: &[&str]) -> (u16, Vec<TcpListener>) {
    until("a port that is free at all addresses", || {
        let port = free_port();
        let listeners: Option<Vec<_>> =
            hosts.iter().map(|host| TcpListener::bind((*host, port)).ok()).collect();
        Some((port, listeners?))
    })
}

pub fn connect(to: SocketAddr) -> TcpStream {
    try_connect(to).unwrap()
}

/// For an address that may answer with an RST so soon that connecting already shows it.
pub fn try_connect(to: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, PATIENCE).map(patient)
}

/// Connects from an address of its own: any of 127.0.0.0/8 is this host's.
pub fn connect_from(ip: &str, to: SocketAddr) -> TcpStream {
    try_connect_from(ip, to).unwrap()
}

/// As [`try_connect`].
pub fn try_connect_from(ip: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ip.parse().unwrap(), 0).into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(patient(socket.into()))
}

/// Whether somebody listens at exactly this address; nothing is sent there.
pub fn is_listened_on(address: SocketAddr) -> bool {
    !listening(address).is_empty()
}

/// Connections to this address that wait to be accepted.
pub fn queued_at(address: SocketAddr) -> u64 {
    listening(address).iter().map(|row| row.received).sum()
}

fn listening(address: SocketAddr) -> Vec<Row> {
    // The remote end of a listening socket is 0.
    rows_with(&format!("{} 00000000:0000 ", hex(address)))
}

pub fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let stream = until("somebody connects", || match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("accept: {error}"),
    });
    stream.set_nonblocking(false).unwrap();
    patient(stream)
}

/// A connection through the bridge: the client's end and the upstream's end.
pub fn through(bridge: SocketAddr, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(bridge);
    (client, accept(upstream))
}

/// No read or write hangs for ever; every small write leaves at once.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Ends a connection with an RST instead of a FIN; what is not yet sent is thrown away.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until the kernel of the other end has acknowledged everything written.
pub fn until_acknowledged(stream: &TcpStream) {
    until("everything written is acknowledged", || (unacknowledged(stream) == 0).then_some(()));
}

/// What was written and the kernel of the other end has not acknowledged.
pub fn unacknowledged(stream: &TcpStream) -> u64 {
    row(stream.local_addr().unwrap(), stream.peer_addr().unwrap()).sent
}

/// What the socket at the other end has received, and its program has not read.
pub fn unread_at_the_other_end(stream: &TcpStream) -> u64 {
    row(stream.peer_addr().unwrap(), stream.local_addr().unwrap()).received
}

/// A line of the kernel's table of TCP sockets over IPv4.
pub struct Row {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub listens: bool,
    /// Bytes that the other end's kernel has not acknowledged.
    pub sent: u64,
    /// Bytes that the program has not read; connections that it has not accepted.
    pub received: u64,
    /// Time until the next keepalive probe of an open connection on which nothing is under way.
    pub probed_in: Option<Duration>,
    pub inode: String,
}

/// The table of the current thread's network namespace.
pub fn rows() -> Vec<Row> {
    rows_with("")
}

/// Those whose line has that; of thousands of closed connections no other is looked at more closely.
fn rows_with(text: &str) -> Vec<Row> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    table.lines().skip(1).filter(|line| line.contains(text)).map(Row::parse).collect()
}

fn row(local: SocketAddr, remote: SocketAddr) -> Row {
    let between = format!("{} {} ", hex(local), hex(remote));
    rows_with(&between).pop().expect("an open socket has a row")
}

/// An IPv4 address as the table has it.
fn hex(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

impl Row {
    fn parse(line: &str) -> Self {
        // Local and remote address, state, queues, timer and when in hundredths of a second.
        let columns: Vec<_> = line.split_whitespace().collect();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let pair = |column: usize| columns[column].split_once(':').unwrap();
        let address = |column| {
            let (ip, port) = pair(column);
            let ip = (number(ip) as u32).to_ne_bytes();
            SocketAddr::from((ip, number(port) as u16))
        };
        let ((sent, received), (timer, when)) = (pair(4), pair(5));
        let is_open = columns[3] == "01";
        let is_keepalive = timer == "02";
        Self {
            local: address(1),
            remote: address(2),
            listens: columns[3] == "0A",
            sent: number(sent),
            received: number(received),
            probed_in: (is_open && is_keepalive).then(|| Duration::from_millis(10 * number(when))),
            inode: columns[9].to_owned(),
        }
    }
}

/// Reads until the other end has said all it will; how it ended comes with the bytes.
pub fn read_to_the_end(mut stream: &TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop);
    (bytes, end)
}

pub fn is_reset(end: &io::Result<()>) -> bool {
    end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

pub fn read_exactly(mut stream: &TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// A stream of bytes that follows from its seed, so that both ends know it without sharing it.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Marsaglia's xorshift64.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// `length` bytes; a whole number of 8-byte words, so that any cutting gives the same stream.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        assert!(length.is_multiple_of(8));
        (0..length / 8).flat_map(|_| self.number().to_le_bytes()).collect()
    }
}

const CHUNK: usize = 64 * 1024;

/// Writes noise and, at the end, a FIN.
pub fn send_noise(mut stream: &TcpStream, seed: u64, length: usize) -> io::Result<()> {
    let mut noise = Noise::new(seed);
    for start in (0..length).step_by(CHUNK) {
        stream.write_all(&noise.bytes(CHUNK.min(length - start)))?;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads exactly that noise and then an EOF.
pub fn expect_noise(mut stream: &TcpStream, seed: u64, length: usize) {
    let mut noise = Noise::new(seed);
    for start in (0..length).step_by(CHUNK) {
        let expected = noise.bytes(CHUNK.min(length - start));
        let mut got = vec![0; expected.len()];
        stream
            .read_exact(&mut got)
            .unwrap_or_else(|error| panic!("after {start} of {length} bytes: {error}"));
        assert!(got == expected, "bytes {start} to {} differ", start + expected.len());
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "more came than was sent");
}

/// Writes noise in pieces of random size, with no FIN.
pub fn send_in_pieces(mut stream: &TcpStream, seed: u64, length: usize, largest: usize) {
    let bytes = Noise::new(seed).bytes(length);
    let mut sizes = Noise::new(!seed);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((1 + sizes.number() as usize % largest).min(rest.len()));
        stream.write_all(piece).unwrap();
        rest = later;
    }
}

/// Serves every connection with `serve`, each on a thread, for as long as the test process lives.
pub fn serve(
    listener: &TcpListener,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> SocketAddr {
    let listener = listener.try_clone().unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_nodelay(true).unwrap();
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// An upstream that answers every byte with itself, until EOF.
pub fn echo() -> SocketAddr {
    serve(&listener(), |stream| drop(io::copy(&mut &stream, &mut &stream)))
}
