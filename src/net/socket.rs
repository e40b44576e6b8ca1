//! Socket options, and what the kernel tells of a connection.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::getsockopt_impl;
use nix::sockopt_impl;
use nix::sys::socket::getsockopt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_tcp_keepidle, set_tcp_keepintvl};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::stream::Stream;
use crate::config::Tcp;

/// How long a peer may take to read a last word and to close.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Sets the options of an upstream's socket, or of a listening one: Linux hands them on to the
/// sockets that are accepted from it.
///
/// `TCP_NODELAY`, because without it a request that is written in two pieces waits for a delayed
/// acknowledgement. No buffer sizes: a fixed one turns the kernel's autotuning off.
pub fn configure(socket: &impl AsFd, tcp: &Tcp) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(tcp.keepalive_idle)
            .with_interval(tcp.keepalive_interval)
            .with_retries(tcp.keepalive_count),
    )?;
    if !tcp.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(tcp.user_timeout))?;
    }
    if let Some(algorithm) = &tcp.congestion_control {
        socket.set_tcp_congestion(algorithm.as_bytes())?;
    }
    Ok(())
}

/// As [`configure`], for a socket that may have had other options before: what is not wanted is as the
/// kernel has it.
pub fn reconfigure(socket: &impl AsFd, tcp: &Tcp) -> io::Result<()> {
    configure(socket, tcp)?;
    let socket = SockRef::from(socket);
    if tcp.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(None)?;
    }
    if tcp.congestion_control.is_none() {
        let default =
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.tcp_congestion()?;
        // One that was never set follows the kernel's default, one that was is what it was set to.
        if socket.tcp_congestion()? != default {
            let name = default.split(|byte| *byte == 0).next().unwrap_or_default();
            socket.set_tcp_congestion(name)?;
        }
    }
    Ok(())
}

/// Sets the silence after which the first keepalive probe is sent, and the time between two, in whole
/// seconds. The latter counts after an answer as well.
pub fn probe(socket: &impl AsFd, after: Duration, every: Duration) -> io::Result<()> {
    set_tcp_keepidle(socket, after)?;
    set_tcp_keepintvl(socket, every)?;
    Ok(())
}

/// Whether sockets of this process may use the congestion control algorithm `name`.
pub fn try_congestion_control(name: &str) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?
        .set_tcp_congestion(name.as_bytes())
}

/// The part of the kernel's `struct tcp_info` (include/uapi/linux/tcp.h) that is read here, up to
/// `tcpi_min_rtt`, which every Linux since 4.6 has. Times are in the units given.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(Default))]
pub struct TcpInfo {
    state: u8,
    ca_state: u8,
    /// Times that the oldest segment was sent again without an answer.
    pub retransmits: u8,
    /// Window probes without an answer; 1 is one on its way.
    pub probes: u8,
    backoff_to_wscale: [u8; 4],
    rto_and_ato: [u32; 2],
    /// Largest segment that is sent.
    pub snd_mss: u32,
    rcv_mss: u32,
    /// Segments sent and not acknowledged; window probes do not count.
    pub unacked: u32,
    sacked_to_fackets: [u32; 4],
    last_data_sent_and_last_ack_sent: [u32; 2],
    /// Since the last data came, milliseconds.
    pub last_data_recv: u32,
    /// Since the last acknowledgement came, milliseconds.
    pub last_ack_recv: u32,
    /// Largest packet that the path is known to take.
    pub pmtu: u32,
    rcv_ssthresh: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt: u32,
    rttvar_to_rcv_space: [u32; 7],
    /// Segments sent again over the connection's life.
    pub total_retrans: u32,
    pacing_rate_to_bytes_acked: [u64; 3],
    /// Bytes that the peer has sent, read or not.
    pub bytes_received: u64,
    segs_out_and_in: [u32; 2],
    /// Bytes in the send queue that were not sent yet.
    pub notsent_bytes: u32,
    min_rtt: u32,
}

sockopt_impl!(
    /// `TCP_INFO`, as far as [`TcpInfo`] goes.
    TcpInfoOption,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

/// What the kernel counts time in, at the most.
const TICK: Duration = Duration::from_millis(10);

impl TcpInfo {
    /// Asks the kernel; works on a connection that has been reset as well.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        Ok(getsockopt(&socket.as_fd(), TcpInfoOption)?)
    }

    /// Whether the connection is over: closed both ways, or broken.
    pub fn is_over(&self) -> bool {
        // TCP_CLOSE of include/net/tcp_states.h.
        self.state == 7
    }

    /// Whether it is open both ways.
    pub fn is_established(&self) -> bool {
        // TCP_ESTABLISHED.
        self.state == 1
    }

    /// Whether the peer owes an answer that a live peer would have given.
    ///
    /// Segments that were sent again, or a closed window whose probes go unanswered. Not merely
    /// segments unacknowledged: a live peer may have shrunk its window under them. And not merely
    /// a closed window: a live peer that pauses reading answers the probes.
    pub fn owes_an_answer(&self) -> bool {
        (self.unacked > 0 && self.retransmits > 0) || (self.notsent_bytes > 0 && self.probes > 1)
    }

    /// For how long nothing has come from the peer, at the most.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.last_data_recv.min(self.last_ack_recv).into()) + TICK
    }

    /// Whether the peer has acknowledged everything that was written.
    pub fn all_acknowledged(&self) -> bool {
        self.unacked == 0 && self.notsent_bytes == 0
    }
}

/// `SO_MEMINFO` of include/uapi/asm-generic/socket.h, which Linux has since 4.12.
const SO_MEMINFO: libc::c_int = 55;
/// What it tells of, in this order (`SK_MEMINFO_RMEM_ALLOC`, `SK_MEMINFO_RCVBUF`,
/// `SK_MEMINFO_WMEM_ALLOC`, ...).
type MemInfo = [u32; 9];

sockopt_impl!(
    /// The memory that a socket takes.
    MemInfoOption,
    GetOnly,
    libc::SOL_SOCKET,
    SO_MEMINFO,
    MemInfo
);

/// The memory of what was written to a Unix socket and its peer has not read: it counts as the
/// writer's until then.
pub fn unread_by_peer(stream: &UnixStream) -> io::Result<u32> {
    let [_, _, written, ..] = getsockopt(&stream.as_fd(), MemInfoOption)?;
    Ok(written)
}

/// Whether a Unix socket's peer has closed both directions, and not merely said that it will say no
/// more. Also true when this end has done the latter and so has the peer.
pub fn is_hung_up(stream: &UnixStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::empty())];
    let polled = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && asked[0].revents().contains(PollFlags::HUP)
}

/// Closes, over TCP with an RST, which throws the send queue away.
pub fn reset(stream: Stream) {
    stream.reset_on_close();
}

/// Writes `bytes`, says that no more will come, and waits (1 s at most) for the peer to close.
///
/// Closing at once would answer what the peer has sent meanwhile with an RST, and that can
/// overtake the word in the peer's receive queue.
pub async fn last_word<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    let words = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Nothing is left to do for a peer that does not listen.
    let _ = timeout(LAST_WORD, words).await;
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "blocking clients are simplest here")]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn tcp_info_tells_what_is_unacknowledged_and_for_how_long() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = TcpInfo::of(&client).unwrap();
        assert!(info.all_acknowledged());
        assert!(info.rtt > 0 && info.last_ack_recv < 60_000, "{info:?}");

        // Nobody reads: what does not fit into the peer's window stays unsent.
        client.set_nonblocking(true).unwrap();
        let chunk = [0; 65536];
        while io::Write::write(&mut &client, &chunk).is_ok() {}
        assert!(!TcpInfo::of(&client).unwrap().all_acknowledged());
    }

    #[test]
    fn the_struct_ends_where_the_kernels_field_does() {
        assert_eq!(std::mem::offset_of!(TcpInfo, notsent_bytes), 144);
        assert_eq!(size_of::<TcpInfo>(), 152);
        assert_eq!(
            std::mem::offset_of!(TcpInfo, notsent_bytes),
            std::mem::offset_of!(libc::tcp_info, tcpi_notsent_bytes)
        );
        assert_eq!(
            std::mem::offset_of!(TcpInfo, snd_mss),
            std::mem::offset_of!(libc::tcp_info, tcpi_snd_mss)
        );
        assert_eq!(
            std::mem::offset_of!(TcpInfo, pmtu),
            std::mem::offset_of!(libc::tcp_info, tcpi_pmtu)
        );
        assert_eq!(
            std::mem::offset_of!(TcpInfo, last_ack_recv),
            std::mem::offset_of!(libc::tcp_info, tcpi_last_ack_recv)
        );
        assert_eq!(
            std::mem::offset_of!(TcpInfo, rtt),
            std::mem::offset_of!(libc::tcp_info, tcpi_rtt)
        );
        assert_eq!(
            std::mem::offset_of!(TcpInfo, total_retrans),
            std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans)
        );
    }
}
