//! One dial of one address, under a deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::socket;
use crate::config::Tcp;

/// Why an address did not answer.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No answer to the SYN: a closed security group, a wrong route, a dead host.
    #[error("no answer within {:?}", rounded(.0))]
    Timeout(Duration),
    /// The TCP connect failed.
    #[error("{}", plain(.0))]
    Connect(io::Error),
    /// This host lacks what a connection takes: descriptors, ports, memory.
    #[error("this host cannot open a connection: {0}")]
    Local(io::Error),
    /// It accepted and then said nothing.
    #[error("accepted, but sent no greeting within {:?}", rounded(.0))]
    Silent(Duration),
    /// It accepted and closed before a greeting: a load balancer without a healthy target.
    #[error("accepted, but closed before a greeting")]
    Closed,
    /// It accepted and failed before a greeting.
    #[error("accepted, but failed before a greeting: {}", plain(.0))]
    Broken(io::Error),
}

impl ConnectError {
    /// Whether nobody listens there.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// The `reason` label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "refused",
                io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::AddrNotAvailable => "unreachable",
                io::ErrorKind::TimedOut => "timeout",
                io::ErrorKind::ConnectionReset => "reset",
                _ => "error",
            },
            Self::Local(_) => "local",
            Self::Silent(_) => "no_greeting",
            Self::Closed => "closed",
            Self::Broken(error) if error.kind() == io::ErrorKind::ConnectionReset => "reset",
            Self::Broken(_) => "error",
        }
    }
}

/// Connects and sets the socket's options.
#[expect(clippy::disallowed_methods, reason = "this is the place with a deadline and options")]
pub async fn connect(
    address: SocketAddr,
    tcp: &Tcp,
    within: Duration,
) -> Result<TcpStream, ConnectError> {
    let stream = timeout(within, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::Timeout(within))?
        .map_err(|error| match is_local(&error, address) {
            true => ConnectError::Local(error),
            false => ConnectError::Connect(error),
        })?;
    socket::configure(&stream, tcp).map_err(ConnectError::Connect)?;
    Ok(stream)
}

fn is_local(error: &io::Error, address: SocketAddr) -> bool {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => true,
        // From connect(2): all local ports towards that address are taken. Over IPv6 rather that this
        // host has no address to connect from (`net.ipv6.conf.all.disable_ipv6`): no way there.
        Some(libc::EADDRNOTAVAIL) => address.ip().to_canonical().is_ipv4(),
        _ => false,
    }
}

/// Without the digits that nobody asked for.
fn rounded(time: &Duration) -> Duration {
    Duration::from_millis((time.as_millis() as u64).next_multiple_of(10))
}

/// Waits for the first byte that the server sends and leaves it where it is.
pub async fn greeted(stream: &TcpStream, within: Duration) -> Result<(), ConnectError> {
    match timeout(within, stream.peek(&mut [0])).await {
        Err(_) => Err(ConnectError::Silent(within)),
        Ok(Ok(0)) => Err(ConnectError::Closed),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(ConnectError::Broken(error)),
    }
}

/// The error in words, without the number that the standard library adds.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        io::ErrorKind::AddrNotAvailable => "this host has no address to connect from".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_to_connect_from_is_a_lack_of_ports_over_ipv4_only() {
        let error = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        for (address, local) in
            [("10.0.0.1:1", true), ("[::ffff:10.0.0.1]:1", true), ("[2600::1]:1", false)]
        {
            assert_eq!(is_local(&error, address.parse().unwrap()), local, "{address}");
        }
        assert_eq!(ConnectError::Connect(error).as_str(), "unreachable");
    }
}
