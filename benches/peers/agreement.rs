//! What each candidate has agreed on with the bench's ends: that TLS is the same for all.

use std::collections::BTreeMap;
use std::io;

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, timeout};
use tokio_util::either::Either;

use crate::candidates::{CLIENT_TLS, Standing, UPSTREAM_TLS};
use crate::load::asking_for;
use crate::opening::Stream;
use crate::server::{AGREED, REQUEST};

/// Connections, one after the other; those behind the first may resume its session.
const CONNECTIONS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// For each leg, how many connections have agreed on what.
#[derive(Debug)]
pub struct Agreement {
    pub candidate: &'static str,
    pub to_upstream: io::Result<BTreeMap<String, usize>>,
    pub from_client: io::Result<BTreeMap<String, usize>>,
}

/// Asks the bench's end of each leg.
pub async fn of(one: &Standing) -> Agreement {
    Agreement {
        candidate: one.candidate.name,
        to_upstream: count(one, UPSTREAM_TLS).await,
        from_client: count(one, CLIENT_TLS).await,
    }
}

async fn count(one: &Standing, way: usize) -> io::Result<BTreeMap<String, usize>> {
    let opening = one.opening(way)?;
    let mut counts = BTreeMap::new();
    for _ in 0..CONNECTIONS {
        let agreed = timeout(PATIENCE, async {
            let mut stream = opening.open(one.running.addresses[way]).await?;
            stream.write_all(&asking_for(AGREED)).await?;
            stream.flush().await?;
            let mut said = [0; REQUEST];
            stream.read_exact(&mut said).await?;
            // Where the candidate ends the client's TLS, the server knows nothing of it.
            let known = match stream {
                Either::Left(_) => said,
                Either::Right(_) => words(&stream),
            };
            io::Result::Ok(String::from_utf8_lossy(&known).trim_end().to_owned())
        });
        let agreed = agreed.await.map_err(|_| io::Error::other("it hung"))??;
        *counts.entry(agreed).or_default() += 1;
    }
    Ok(counts)
}

/// What a connection's TLS has agreed on, as a reply.
pub fn words(stream: &Stream) -> [u8; REQUEST] {
    let text = match stream {
        Either::Left(_) => "no TLS".to_owned(),
        Either::Right(stream) => {
            let (_, tls) = stream.get_ref();
            let suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
            let group = tls.negotiated_key_exchange_group().map(|group| group.name());
            let version = tls.protocol_version();
            let parts = [
                version.map(|version| format!("{version:?}")),
                suite.map(|suite| format!("{suite:?}")),
                group.map(|group| format!("{group:?}")),
                tls.handshake_kind().map(|kind| match kind {
                    HandshakeKind::Resumed => "resumed".to_owned(),
                    _ => "full".to_owned(),
                }),
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
    };
    let mut words = [b' '; REQUEST];
    let length = text.len().min(REQUEST);
    words[..length].copy_from_slice(&text.as_bytes()[..length]);
    words
}
