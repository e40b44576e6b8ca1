//! The data threads: each accepts on listening sockets of its own and carries their sessions.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::interval;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::RunError;
use super::bindings::Opened;
use crate::drain::{Drain, Phase};
use crate::log::Repeats;
use crate::net::listener::Listener;
use crate::pool::{self, Pool};
use crate::{proxy, relay, systemd};

/// What a data thread is sent.
#[derive(Debug)]
pub(super) enum ToThread {
    /// Accept on it.
    Accept(Opened),
    /// Keep a pool filled.
    Keep(Arc<Pool>),
    /// Say that you are there.
    Answer(oneshot::Sender<()>),
}

/// Tells the service manager that the bridge is alive, as long as every data thread answers.
pub(super) async fn watch_over(threads: Vec<mpsc::UnboundedSender<ToThread>>) -> Infallible {
    let Some(period) = systemd::watchdog() else { return pending().await };
    let mut every = interval(period / 2);
    loop {
        every.tick().await;
        for thread in &threads {
            let (ask, answer) = oneshot::channel();
            let _ = thread.send(ToThread::Answer(ask));
            // One that hangs, or is gone, keeps this from going on, and the service manager acts.
            if answer.await.is_err() {
                return pending().await;
            }
        }
        systemd::alive();
    }
}

/// The runtime of a data thread. All are there before the first thread starts: it might leave no
/// descriptors for the others.
pub(super) fn runtime() -> Result<Runtime, RunError> {
    Builder::new_current_thread().enable_all().build().map_err(RunError::Thread)
}

/// Starts the data thread of that number. It ends after the drain has.
///
/// Not joined: the drain tells when its sessions are gone.
pub(super) fn start(
    number: usize,
    runtime: Runtime,
    inbox: mpsc::UnboundedReceiver<ToThread>,
    drain: &Drain,
    periods: watch::Receiver<Duration>,
    repeats: Repeats,
    panics: mpsc::UnboundedSender<()>,
) -> Result<(), RunError> {
    let (drain, member) = (drain.clone(), drain.join());
    thread::Builder::new()
        .name(format!("tidegate-{number}"))
        .spawn(move || {
            runtime.block_on(carry(number, inbox, drain, member, periods, repeats, panics))
        })
        .map_err(RunError::Thread)?;
    Ok(())
}

/// The life of a data thread: accepts until the drain, then sees its sessions off.
async fn carry(
    number: usize,
    mut inbox: mpsc::UnboundedReceiver<ToThread>,
    drain: Drain,
    member: TaskTrackerToken,
    periods: watch::Receiver<Duration>,
    repeats: Repeats,
    panics: mpsc::UnboundedSender<()>,
) {
    pool::own_shard(number);
    let watch = tokio::spawn(relay::look_after(drain.clone(), periods));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(message) = inbox.recv() => match message {
                ToThread::Accept(Opened { socket, shared, proxies }) => {
                    let proxy = proxies.borrow().clone();
                    let (name, tcp) = (&proxy.config.name, &proxy.tcp);
                    match Listener::new(name, socket, tcp, shared, &repeats) {
                        // A task of its own: a future inside block_on is polled at every wake-up.
                        Ok(listener) => drop(tasks.spawn(proxy::serve(listener, proxies))),
                        Err(error) => error!(%error, "cannot use a listening socket"),
                    }
                }
                ToThread::Keep(pool) => {
                    drop(tasks.spawn(pool.keep(number, drain.clone())));
                }
                // Who asked may have lost patience.
                ToThread::Answer(answer) => drop(answer.send(())),
            },
            // After the inbox: what is queued in a socket that waits there is still served.
            () = drain.reached(Phase::Draining) => break,
            Some(ended) = tasks.join_next() => mind(&ended, &panics),
        }
    }
    while let Some(ended) = tasks.join_next().await {
        mind(&ended, &panics);
    }
    drop(member);
    drain.reached(Phase::Closing).await;
    // Wakes the relays that are left; it ends by itself after that.
    let _ = watch.await;
    drain.empty().await;
}

/// Reports a task that has panicked.
fn mind(ended: &Result<(), JoinError>, panics: &mpsc::UnboundedSender<()>) {
    if ended.is_err() {
        // The bridge may have ended already.
        let _ = panics.send(());
    }
}
