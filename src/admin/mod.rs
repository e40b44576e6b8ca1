//! The admin endpoint: probes, metrics, status, drain. HTTP/1 on the control runtime.

mod health;
mod status;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::drain::{Drain, Phase};
use crate::metrics::Metrics;
use crate::net::address::Peer;
use crate::net::listener::{Accepted, Listener};
use crate::net::proxy_protocol;
use crate::net::stream::Stream;
use crate::proxy::Proxy;
use crate::upstream::Upstream;
use health::Health;

/// Time for a client to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// More than probes and scrapers hold. The oldest gives way to a new one: who reads slowly takes no
/// descriptors from sessions, and keeps no probe out.
const MOST_CONNECTIONS: usize = 64;
/// How long the result of a deep check is given again.
const DEEP_CHECK_HOLDS: Duration = Duration::from_secs(5);
const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text exposition format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// The result of dialling every gateway: one line, good or bad.
pub type DeepCheck = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// What the endpoint speaks of.
pub struct Parts {
    /// The registry to print.
    pub metrics: Arc<Metrics>,
    /// The number of log lines dropped so far.
    pub log_lines_dropped: Box<dyn Fn() -> u64 + Send + Sync>,
    /// What `POST /drain` begins.
    pub drain: Drain,
    /// The runtimes of the process.
    pub runtimes: Vec<Handle>,
    /// What is served.
    pub view: watch::Receiver<Arc<View>>,
    /// Dials every gateway.
    pub deep_check: Box<dyn Fn(Arc<View>) -> DeepCheck + Send + Sync>,
}

/// What is served under one configuration; a reload puts another in its place.
#[derive(Debug, Default)]
pub struct View {
    /// All listeners.
    pub proxies: Vec<Arc<Proxy>>,
    /// All upstreams.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The bearer token for state-changing calls from other hosts; `None`: these are refused.
    pub token: Option<String>,
}

/// The endpoint at work.
pub struct Admin {
    parts: Parts,
    health: Health,
    last_deep_check: Mutex<Option<(Instant, Result<String, String>)>>,
}

impl Admin {
    /// An endpoint over its parts.
    pub fn new(parts: Parts) -> Self {
        let health = Health::new(parts.drain.clone(), parts.view.clone());
        Self { parts, health, last_deep_check: Mutex::new(None) }
    }

    /// Serves until dropped, through the drain.
    pub async fn serve(self, mut listener: Listener) {
        let admin = Arc::new(self);
        let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
        loop {
            // Without a descriptor left there is nothing to say over HTTP either.
            if let Accepted::Connection(stream, peer) = listener.accept(b"").await {
                open.retain(|one| !one.is_finished());
                if open.len() == MOST_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(tokio::spawn(connection(admin.clone(), stream, peer)));
            }
        }
    }

    async fn answer(&self, request: &Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let get = [Method::GET, Method::HEAD];
        let allowed: &[Method] = match request.uri().path() {
            "/livez" | "/readyz" | "/startupz" | "/healthz/deep" | "/metrics" | "/status"
            | "/status.json" => &get,
            "/drain" => &[Method::POST],
            path => {
                let text = format!(
                    "no {path} here; there are /livez /readyz /startupz /healthz/deep /metrics \
                     /status /status.json and POST /drain\n"
                );
                return reply(StatusCode::NOT_FOUND, TEXT, text);
            }
        };
        if !allowed.contains(request.method()) {
            let mut refusal =
                reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("use {}\n", allowed[0]));
            let value = HeaderValue::from_str(allowed[0].as_str()).expect("a method is a token");
            refusal.headers_mut().insert(ALLOW, value);
            return refusal;
        }
        match request.uri().path() {
            "/livez" => verdict(Ok("alive".into())),
            "/readyz" => verdict(self.health.ready()),
            "/startupz" => verdict(self.health.started()),
            "/healthz/deep" => verdict(self.deep_check().await),
            "/metrics" => {
                // Brings the endpoints' gauges up to now.
                self.view().upstreams.iter().for_each(|upstream| upstream.count_endpoints());
                let text = self.parts.metrics.render((self.parts.log_lines_dropped)());
                reply(StatusCode::OK, METRICS, text)
            }
            "/status" => reply(StatusCode::OK, HTML, self.status().to_html()),
            "/status.json" => reply(StatusCode::OK, JSON, self.status().to_json()),
            _ => self.drain(request, peer),
        }
    }

    fn status(&self) -> status::Status {
        let runtimes = self.parts.runtimes.iter();
        let tasks = runtimes.map(|runtime| runtime.metrics().num_alive_tasks()).sum();
        status::Status::of(&self.view(), &self.parts.drain, tasks)
    }

    fn view(&self) -> Arc<View> {
        self.parts.view.borrow().clone()
    }

    /// One check at a time, and its result for a while: to a server each is a failed log-in.
    async fn deep_check(&self) -> Result<String, String> {
        let mut last = self.last_deep_check.lock().await;
        match &*last {
            Some((at, result)) if at.elapsed() < DEEP_CHECK_HOLDS => result.clone(),
            _ => {
                let result = (self.parts.deep_check)(self.view()).await;
                *last = Some((Instant::now(), result.clone()));
                result
            }
        }
    }

    /// Changes state: from this host, or with the token.
    fn drain(&self, request: &Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let known = self.view().token.as_ref().map(|token| format!("Bearer {token}"));
        let authorized = match (given, &known) {
            (Some(given), Some(known)) => same(given, known.as_bytes()),
            _ => false,
        };
        // A page in a browser on this host can send a POST, but not without saying so.
        if request.headers().contains_key(ORIGIN) {
            return reply(StatusCode::FORBIDDEN, TEXT, "not from a web page\n");
        }
        if !peer.is_local() && !authorized {
            let text = "from another host this needs the bearer token of admin_token_file\n";
            return reply(StatusCode::FORBIDDEN, TEXT, text);
        }
        info!(%peer, "drain asked for over HTTP");
        let already = if self.parts.drain.phase() == Phase::Serving { "" } else { "already " };
        self.parts.drain.begin();
        let open = self.parts.metrics.open_connections();
        let sessions = if open == 1 { "session is" } else { "sessions are" };
        reply(StatusCode::OK, TEXT, format!("{already}draining, {open} {sessions} open\n"))
    }
}

async fn connection(admin: Arc<Admin>, mut stream: Stream, peer: Peer) {
    // AWS: a target group that is sent PROXY headers has them in its health checks as well, whatever
    // their port. `peer` stays the real one, so nobody gains by sending a header.
    if let Err(error) = proxy_protocol::skip(&mut stream, HEAD_TIMEOUT).await {
        debug!(%peer, %error, "admin connection failed");
        return;
    }
    let service = service_fn(|request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(&request, peer).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%peer, %error, "admin connection failed");
    }
}

/// 200 or 503, with one line that says why.
fn verdict(result: Result<String, String>) -> Response<Full<Bytes>> {
    match result {
        Ok(line) => reply(StatusCode::OK, TEXT, line + "\n"),
        Err(line) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, line + "\n"),
    }
}

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Compares a secret in a time that does not tell how much of it was right.
fn same(given: &[u8], known: &[u8]) -> bool {
    given.len() == known.len()
        && given.iter().zip(known).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn a_token_is_right_only_as_a_whole() {
        assert!(same(b"Bearer x", b"Bearer x"));
        assert!(!same(b"Bearer", b"Bearer x"));
        assert!(!same(b"Bearer y", b"Bearer x"));
    }
}
