//! User memory of idle connections, on a candidate that has served nobody else.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::candidates::{Places, Standing};
use crate::load::request;
use crate::process;
use crate::server::REQUEST;
use crate::stats::Sample;

/// Connections that are opened, or have their burst, at the same time.
const AT_ONCE: usize = 500;
/// Bytes of the burst on each connection.
const BURST: usize = 1 << 20;
/// For what a candidate puts off.
const SETTLE: Duration = Duration::from_millis(500);
/// For all of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// KiB per connection after and before the burst, and descriptors per connection.
pub async fn sample(
    one: &Standing,
    way: usize,
    places: &Places,
    connections: usize,
) -> io::Result<Sample> {
    let work = sample_patiently(one, way, places, connections);
    timeout(PATIENCE, work).await.map_err(|_| io::Error::other("it hung"))?
}

async fn sample_patiently(
    one: &Standing,
    way: usize,
    places: &Places,
    connections: usize,
) -> io::Result<Sample> {
    let running = one.candidate.start(&[one.behind[way]], places)?;
    let opening = one.opening(way)?;
    let address = running.addresses[0];
    sleep(SETTLE).await;
    let pids = running.pids();
    let (memory, descriptors) = (process::anonymous(&pids), process::descriptors(&pids));

    let mut streams = Vec::new();
    while streams.len() < connections {
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE.min(connections - streams.len()) {
            let opening = opening.clone();
            tasks.spawn(async move {
                let mut stream = opening.open(address).await?;
                request(&mut stream, REQUEST, &mut [0; REQUEST]).await?;
                io::Result::Ok(stream)
            });
        }
        while let Some(stream) = tasks.join_next().await {
            streams.push(stream.map_err(io::Error::other)??);
        }
    }
    sleep(SETTLE).await;
    let pids = running.pids();
    let (before, opened) = (process::anonymous(&pids), process::descriptors(&pids));

    let mut idle = Vec::new();
    while !streams.is_empty() {
        let mut tasks = JoinSet::new();
        for mut stream in streams.drain(..AT_ONCE.min(streams.len())) {
            tasks.spawn(async move {
                request(&mut stream, BURST, &mut vec![0; 64 << 10]).await?;
                io::Result::Ok(stream)
            });
        }
        while let Some(stream) = tasks.join_next().await {
            idle.push(stream.map_err(io::Error::other)??);
        }
    }
    sleep(SETTLE).await;
    let after = process::anonymous(&running.pids());

    let each = |total: f64| total / connections as f64;
    Ok(Sample {
        values: vec![
            each(after - memory),
            each(before - memory),
            each(opened as f64 - descriptors as f64),
        ],
        client: f64::NAN,
        server: f64::NAN,
    })
}
