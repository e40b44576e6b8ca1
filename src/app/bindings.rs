//! Addresses that are listened on: opened, given to the data threads, handed from one configuration
//! to the next, closed.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::BuildError;
use super::threads::ToThread;
use crate::config::{Bind, Listener as ListenerConfig, Tcp, overlap};
use crate::net::address::Address;
use crate::net::listener::{self, Socket};
use crate::net::unix;
use crate::proxy::Proxy;
use crate::systemd::Inherited;

/// A listening socket for a data thread, and the proxy that its connections belong to at the time.
#[derive(Debug)]
pub(super) struct Opened {
    pub socket: Socket,
    /// Whether the service manager holds it as well.
    pub shared: bool,
    pub proxies: watch::Receiver<Arc<Proxy>>,
}

/// An address that is listened on. Dropped, its sockets are closed when what is queued in them has
/// been accepted.
#[derive(Debug)]
pub(super) struct Binding {
    /// The listener that it serves, or was opened for.
    listener: String,
    /// As the configuration has it; the port may be 0.
    asked: Address,
    address: Address,
    shared: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody accepts yet: one socket for each data thread.
    Bound(Vec<Socket>),
    Serving(watch::Sender<Arc<Proxy>>),
}

impl Binding {
    /// What was bound.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn tcp(&self) -> Option<SocketAddr> {
        match &self.address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// From now on its connections belong to `proxy`.
    pub fn serve(&mut self, proxy: Arc<Proxy>, threads: &[mpsc::UnboundedSender<ToThread>]) {
        self.listener.clone_from(&proxy.config.name);
        match &mut self.state {
            State::Serving(proxies) => drop(proxies.send_replace(proxy)),
            State::Bound(sockets) => {
                let (proxies, receiver) = watch::channel(proxy);
                for (socket, thread) in sockets.drain(..).zip(threads) {
                    // Without a thread the bridge has ended.
                    let (shared, proxies) = (self.shared, receiver.clone());
                    let _ = thread.send(ToThread::Accept(Opened { socket, shared, proxies }));
                }
                self.state = State::Serving(proxies);
            }
        }
    }
}

/// Has listeners bind what was passed under their names, whatever the file says. That has been
/// validated with the addresses of the file, so who may connect to these is looked at here.
pub(super) fn bind_as_passed(
    listeners: &mut [ListenerConfig],
    passed: &[Inherited],
) -> Result<(), BuildError> {
    for listener in listeners {
        let own = passed.iter().filter(|one| one.name == listener.name);
        let own: Vec<_> = own.map(|one| one.address).collect();
        if let Some(address) = own.iter().find(|address| listener.is_exposed_at(**address)) {
            let (listener, address) = (listener.name.clone(), *address);
            return Err(BuildError::Exposed { listener, address });
        }
        if !own.is_empty() {
            listener.bind = own.into_iter().map(Bind::Address).collect();
        }
    }
    Ok(())
}

/// Adds the sockets that were passed at the start to `bindings`, each for the listener that asks for its
/// address, unless they are there.
pub(super) fn adopt(
    passed: &[Inherited],
    listeners: &[ListenerConfig],
    threads: usize,
    tcp: &Tcp,
    bindings: &mut Vec<Binding>,
) -> Result<(), BuildError> {
    for Inherited { name, address, socket } in passed {
        let address = *address;
        if bindings.iter().any(|one| one.address == Address::Tcp(address)) {
            continue;
        }
        let asks = |listener: &&ListenerConfig| {
            listener.bind.iter().flat_map(|bind| bind.addresses()).any(|asked| asked == address)
        };
        let Some(listener) = listeners.iter().find(asks) else {
            warn!(name, %address, "a socket was passed that is no listener's by name or address");
            continue;
        };
        let sockets = listener::share(socket, threads, tcp)
            .map_err(|source| BuildError::Bind { address, source })?;
        let (listener, state) = (listener.name.clone(), State::Bound(sockets));
        let (asked, address) = (Address::Tcp(address), Address::Tcp(address));
        bindings.push(Binding { listener, asked, address, shared: true, state });
    }
    Ok(())
}

/// Finds or opens the addresses of `listeners`, those of each together, in their order. What is found
/// is taken out of `old`; when one cannot be opened, all that are served are put back.
pub(super) fn bind_all(
    listeners: &[ListenerConfig],
    threads: usize,
    tcp: &Tcp,
    old: &mut Vec<Binding>,
) -> Result<Vec<Vec<Binding>>, BuildError> {
    let mut bound: Vec<Vec<Binding>> = Vec::new();
    for listener in listeners {
        let held: Vec<SocketAddr> =
            old.iter().chain(bound.iter().flatten()).filter_map(Binding::tcp).collect();
        let mut own = Vec::new();
        let result = bind(listener, threads, tcp, old, &held, &mut own);
        bound.push(own);
        if let Err(error) = result {
            old.extend(bound.into_iter().flatten());
            old.retain(|one| matches!(one.state, State::Serving(_)));
            return Err(error);
        }
    }
    Ok(bound)
}

/// The addresses of one listener, as far as they can be had, into `own`. Of `localhost` the IPv6 half
/// may be missing; with port 0 it gets the port of the first half.
fn bind(
    listener: &ListenerConfig,
    threads: usize,
    tcp: &Tcp,
    old: &mut Vec<Binding>,
    held: &[SocketAddr],
    own: &mut Vec<Binding>,
) -> Result<(), BuildError> {
    for name in &listener.bind {
        if let Bind::Unix(path) = name {
            own.push(bind_path(path, listener, threads, old)?);
        }
        let mut port = None;
        for asked in name.addresses() {
            let is_it = |one: &Binding| {
                // Any port is a port of its own for each listener.
                one.asked == Address::Tcp(asked)
                    && (asked.port() != 0 || one.listener == listener.name)
            };
            if let Some(at) = old.iter().position(is_it) {
                let found = old.swap_remove(at);
                port = found.tcp().map(|address| address.port());
                own.push(found);
                continue;
            }
            let address = SocketAddr::new(asked.ip(), port.unwrap_or(asked.port()));
            let beside_own = held.iter().any(|own| overlap(*own, address));
            match open(address, threads, tcp, beside_own) {
                Ok((address, sockets)) => {
                    port = Some(address.port());
                    let state = State::Bound(sockets);
                    let listener = listener.name.clone();
                    let (asked, address) = (Address::Tcp(asked), Address::Tcp(address));
                    own.push(Binding { listener, asked, address, shared: false, state });
                }
                Err(BuildError::Bind { source, .. }) if port.is_some() && no_ipv6(&source) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// A Unix socket goes by its path: its mode and its owner are those it was made with.
fn bind_path(
    path: &Path,
    listener: &ListenerConfig,
    threads: usize,
    old: &mut Vec<Binding>,
) -> Result<Binding, BuildError> {
    let address = Address::Unix(path.to_owned());
    if let Some(at) = old.iter().position(|one| one.asked == address) {
        return Ok(old.swap_remove(at));
    }
    let sockets = unix::bind(path, threads, &listener.unix)
        .map_err(|source| BuildError::Unix { path: path.to_owned(), source })?;
    let (listener, state) = (listener.name.clone(), State::Bound(sockets));
    Ok(Binding { listener, asked: address.clone(), address, shared: false, state })
}

/// Binds `count` sockets together; also tells the port that was found for port 0.
pub(super) fn open(
    address: SocketAddr,
    count: usize,
    tcp: &Tcp,
    beside_own: bool,
) -> Result<(SocketAddr, Vec<Socket>), BuildError> {
    listener::bind(address, count, tcp, beside_own)
        .map_err(|source| BuildError::Bind { address, source })
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}
