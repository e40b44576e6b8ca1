//! One request and its answer, under a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ControlError;
use crate::show::table::harmless;

/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// Time for a connection and an answer together.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// A status of ten thousand endpoints is a quarter of that.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// As much as is shown of what somebody answers.
const MAX_LINE: usize = 200;

/// An answer, whole.
pub(super) struct Reply {
    pub status: StatusCode,
    pub body: String,
}

impl Reply {
    /// The first line, fit to be shown on a terminal.
    pub fn line(&self) -> String {
        let line = self.body.lines().next().unwrap_or_default();
        harmless(line).chars().take(MAX_LINE).collect()
    }

    /// The error that it is when `path` has no answer of this status.
    pub fn unexpected(&self, address: SocketAddr, path: &'static str) -> ControlError {
        ControlError::Unexpected { address, path, status: self.status, said: self.line() }
    }
}

/// Asks on a connection of its own.
pub(super) async fn ask(
    address: SocketAddr,
    method: Method,
    path: &'static str,
    token: Option<&str>,
    within: Duration,
) -> Result<Reply, ControlError> {
    let request = request(address, method, path, token)?;
    match timeout(within, exchange(address, request, within)).await {
        Ok(result) => result,
        Err(_) => Err(ControlError::Silent { address, within }),
    }
}

fn request(
    address: SocketAddr,
    method: Method,
    path: &'static str,
    token: Option<&str>,
) -> Result<Request<Empty<Bytes>>, ControlError> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("our own paths are URIs");
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(&address.to_string());
    headers.insert(HOST, host.expect("an address is visible ASCII"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| ControlError::UnusableToken)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(request)
}

#[expect(clippy::disallowed_methods, reason = "one exchange, and its deadline is around it")]
async fn exchange(
    address: SocketAddr,
    request: Request<Empty<Bytes>>,
    within: Duration,
) -> Result<Reply, ControlError> {
    let limit = CONNECT.min(within);
    let stream = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| ControlError::Unanswered { address, within: limit })?
        .map_err(|source| ControlError::Connect { address, source })?;
    let broken = |source| ControlError::Broken { address, source };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
    // It ends with the sender, or with the runtime.
    drop(tokio::spawn(connection));
    let reply = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
    let (head, body) = reply.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(broken)?.to_bytes();
    Ok(Reply { status: head.status, body: String::from_utf8_lossy(&body).into_owned() })
}
