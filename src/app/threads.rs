//! The data threads: each accepts on listening sockets of its own and carries their sessions.

use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::RunError;
use super::bindings::Opened;
use crate::config::Tcp;
use crate::drain::{Drain, Phase};
use crate::net::listener::Listener;
use crate::{proxy, relay};

/// Starts the data thread of that number. It ends after the drain has.
///
/// Not joined: the drain tells when its sessions are gone.
pub(super) fn start(
    number: usize,
    opened: mpsc::UnboundedReceiver<Opened>,
    drain: &Drain,
    periods: watch::Receiver<Duration>,
) -> Result<(), RunError> {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Thread)?;
    let (drain, member) = (drain.clone(), drain.join());
    thread::Builder::new()
        .name(format!("tidegate-{number}"))
        .spawn(move || runtime.block_on(carry(opened, drain, member, periods)))
        .map_err(RunError::Thread)?;
    Ok(())
}

/// The life of a data thread: accepts until the drain, then sees its sessions off.
async fn carry(
    mut opened: mpsc::UnboundedReceiver<Opened>,
    drain: Drain,
    member: TaskTrackerToken,
    periods: watch::Receiver<Duration>,
) {
    let watch = tokio::spawn(relay::look_after(drain.clone(), periods));
    let mut accepting = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = drain.reached(Phase::Draining) => break,
            Some(Opened { socket, proxies }) = opened.recv() => {
                let tcp: Tcp = proxies.borrow().tcp.clone();
                match Listener::new(socket, &tcp) {
                    // A task of its own: a future inside block_on is polled at every wake-up.
                    Ok(listener) => drop(accepting.spawn(proxy::serve(listener, proxies))),
                    Err(error) => error!(%error, "cannot use a listening socket"),
                }
            }
            Some(ended) = accepting.join_next() => mind_panic(ended, &drain),
        }
    }
    while let Some(ended) = accepting.join_next().await {
        mind_panic(ended, &drain);
    }
    drop(member);
    drain.reached(Phase::Closing).await;
    // Wakes the relays that are left; it ends by itself after that.
    let _ = watch.await;
    drain.empty().await;
}

fn mind_panic(ended: Result<(), tokio::task::JoinError>, drain: &Drain) {
    if ended.is_err() {
        error!("an accept loop panicked: draining");
        drain.begin();
    }
}
