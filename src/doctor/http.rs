//! One request and its answer, under a deadline.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, DATE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest answer that is read. A status of ten thousand endpoints is not for here.
const LONGEST: usize = 1024 * 1024;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: u16,
    pub body: String,
    /// What the other side's clock says.
    pub date: Option<SystemTime>,
}

/// Asks on a connection of its own.
pub(super) async fn ask(
    address: SocketAddr,
    method: Method,
    path: &'static str,
    header: Option<(&'static str, &str)>,
    within: Duration,
) -> Result<Reply, String> {
    let asked = exchange(address, method, path, header);
    timeout(within, asked).await.unwrap_or_else(|_| Err("it does not answer".into()))
}

#[expect(clippy::disallowed_methods, reason = "one exchange, and its deadline is around it")]
async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &'static str,
    header: Option<(&'static str, &str)>,
) -> Result<Reply, String> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| "no path")?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
    request.headers_mut().insert(HOST, value(&address.to_string())?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some((name, text)) = header {
        request.headers_mut().insert(name, value(text)?);
    }
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with the sender, or with the runtime.
    drop(tokio::spawn(connection));
    let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let (head, body) = reply.into_parts();
    let body = Limited::new(body, LONGEST).collect().await.map_err(|error| error.to_string())?;
    let date = head.headers.get(DATE).and_then(|date| date.to_str().ok());
    Ok(Reply {
        status: head.status.as_u16(),
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        date: date.and_then(moment),
    })
}

/// A date as HTTP writes it: `Tue, 15 Nov 1994 08:12:31 GMT`.
fn moment(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<_> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = 1 + MONTHS.iter().position(|name| name == month)?;
    let text = format!("{year}-{month:02}-{day:0>2}T{time}Z");
    humantime::parse_rfc3339(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn dates_of_http_are_read() {
        let at = |text| moment(text).map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(at("Tue, 15 Nov 1994 08:12:31 GMT"), Some(784_887_151));
        assert_eq!(at("Tue, 5 Nov 1994 08:12:31 GMT"), Some(784_023_151));
        for wrong in
            ["", "Tue, 15 Nov 1994 08:12:31", "Tue, 15 Foo 1994 08:12:31 GMT", "a b c d e GMT"]
        {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }
}
