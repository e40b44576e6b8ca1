//! A request and its reply at three sizes: direct, and through the relay that copies or may splice.
//!
//! Client, relay and server are threads of their own on loopback, as they are processes of their
//! own in life; the figures compare the two paths on one machine in one run, no more than that.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::config::Splice;
use tidegate::metrics::Metrics;
use tidegate::relay::{Limits, Relay};

const REPLIES: [usize; 3] = [64, 4 * 1024, 1024 * 1024];

fn replies(c: &mut Criterion) {
    let server = serve();
    let (copy, splice) = (relay_to(server, Splice::Off), relay_to(server, Splice::Auto));
    for size in REPLIES {
        let mut group = c.benchmark_group(format!("reply/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        for (path, address) in [("direct", server), ("copy", copy), ("splice", splice)] {
            let mut client = connect(address);
            let mut reply = vec![0; size];
            group.bench_function(BenchmarkId::from_parameter(path), |b| {
                b.iter(|| {
                    client.write_all(&(size as u32).to_le_bytes()).expect("the server reads");
                    client.read_exact(&mut reply).expect("the server replies");
                });
            });
        }
        group.finish();
    }
}

/// A server that answers each 4-byte length with as many bytes.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let reply = vec![b'x'; 1024 * 1024];
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            stream.set_nodelay(true).expect("a connected socket");
            let reply = reply.clone();
            thread::spawn(move || {
                let mut length = [0; 4];
                while stream.read_exact(&mut length).is_ok() {
                    let length = u32::from_le_bytes(length) as usize;
                    if stream.write_all(&reply[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// The relay on a runtime as the bridge has it.
fn relay_to(server: SocketAddr, splice: Splice) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            listener.set_nonblocking(true).expect("a listening socket");
            let listener = tokio::net::TcpListener::from_std(listener).expect("in a runtime");
            let relayed = Metrics::new().listener("bench", &["off"]).relayed;
            loop {
                let (client, _) = listener.accept().await.expect("accept");
                client.set_nodelay(true).expect("a connected socket");
                let upstream = tokio::net::TcpStream::from_std({
                    let upstream = connect(server);
                    upstream.set_nonblocking(true).expect("a connected socket");
                    upstream
                })
                .expect("in a runtime");
                let limits = Limits { idle_timeout: Duration::ZERO, retire_at: None, retire: None };
                let (relayed, never) = (relayed.clone(), Duration::ZERO);
                let relay = Relay::new(client, upstream, relayed, never, splice, limits, None);
                drop(tokio::spawn(relay));
            }
        });
    });
    address
}

#[expect(clippy::disallowed_methods, reason = "a blocking client is the point here")]
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_nodelay(true).expect("a connected socket");
    stream
}

criterion_group!(benches, replies);
criterion_main!(benches);
