//! The data threads: each accepts on listening sockets of its own and carries their sessions.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, mpsc as blocking};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::interval;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

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

/// A data thread that has its runtime, and waits for its work. Dropped, it ends.
#[derive(Debug)]
pub(super) struct DataThread {
    pub runtime: Handle,
    work: oneshot::Sender<Work>,
}

/// What a data thread needs for its life.
#[derive(Debug)]
pub(super) struct Work {
    pub drain: Drain,
    /// Its own: from the beginning on it is somebody to wait for.
    pub member: TaskTrackerToken,
    pub periods: watch::Receiver<Duration>,
    pub repeats: Repeats,
    pub panics: mpsc::UnboundedSender<()>,
}

/// Makes the data threads, and the way to each. All are there before the first one works: it might
/// leave no descriptors for the others.
///
/// Not joined: the drain tells when their sessions are gone.
pub(super) fn start(
    count: usize,
) -> io::Result<(Vec<mpsc::UnboundedSender<ToThread>>, Vec<DataThread>)> {
    let (mut ways, mut threads) = (Vec::new(), Vec::new());
    for number in 0..count {
        let (way, inbox) = mpsc::unbounded_channel();
        let (made, is_made) = blocking::channel();
        let (work, given) = oneshot::channel();
        thread::Builder::new().name(format!("tidegate-{number}")).spawn(move || {
            // Here, and not by whoever starts it: where one is missing the others end with their
            // threads, as a runtime may not be dropped on another.
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(made.send(Err(error))),
            };
            let _ = made.send(Ok(runtime.handle().clone()));
            runtime.block_on(async move {
                if let Ok(work) = given.await {
                    carry(number, inbox, work).await;
                }
            });
        })?;
        let runtime = is_made.recv().expect("a thread says what became of its runtime")?;
        ways.push(way);
        threads.push(DataThread { runtime, work });
    }
    Ok((ways, threads))
}

impl DataThread {
    /// Lets it begin. It ends after the drain has.
    pub fn begin(self, work: Work) {
        // It waits for it.
        let _ = self.work.send(work);
    }
}

/// The life of a data thread: accepts until the drain, then sees its sessions off.
async fn carry(number: usize, mut inbox: mpsc::UnboundedReceiver<ToThread>, work: Work) {
    let Work { drain, member, periods, repeats, panics } = work;
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
