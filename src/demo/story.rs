//! What the demo tells: each step does something, checks what came of it, and says so.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use humantime::format_duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{interval, timeout};

use super::backend::VERSION;
use super::client::{Client, ClientError, Row, dial};
use super::stage::{NAMES, Stage, TTL};
use super::{DemoError, Narrator};

/// Longest wait for any one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait until a DNS change has been followed.
const DNS_PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Connections made after an endpoint died, none of which may fail.
const AFTER_DEATH: usize = 4;

/// Tells the whole story; the stage comes back for those who want to look around.
pub async fn tell(narrator: &mut Narrator, mut stage: Stage) -> Result<Stage, DemoError> {
    narrator
        .say("tidegate demo: a private gateway, its DNS name and the bridge, on this machine")?;
    parts(narrator, &stage)?;
    let mut connections = queries(narrator, &stage).await?;
    connections += failover(narrator, &mut stage).await?;
    connections += dns_change(narrator, &stage).await?;
    metrics(narrator, &stage, connections).await?;
    Ok(stage)
}

fn parts(narrator: &mut Narrator, stage: &Stage) -> Result<(), DemoError> {
    narrator.step("The parts")?;
    for (number, name) in NAMES.iter().enumerate() {
        let place = format!("{} is {}", name, stage.backend_address(number));
        narrator.tell("backend", &place)?;
    }
    let dns = stage.dns.address();
    let (blue, green) = (stage.backend_address(0).ip(), stage.backend_address(1).ip());
    narrator.tell("DNS server", &dns.to_string())?;
    narrator.tell("  answers", &stage.gateway.host)?;
    narrator.tell("  with", &format!("{blue} and {green}, TTL {TTL} s"))?;
    narrator.tell("bridge", &format!("{} -> {}", stage.bridge, stage.gateway))?;
    narrator.tell("admin", &format!("http://{}", stage.admin))
}

/// Returns how many connections it made, as the other steps do.
async fn queries(narrator: &mut Narrator, stage: &Stage) -> Result<u64, DemoError> {
    narrator.step("Queries through the bridge")?;
    let mut client = connect(narrator, stage).await?;

    let row = query(narrator, &mut client, "SELECT @@hostname, VERSION()").await?;
    let in_dns = NAMES[..2].iter().any(|name| text(&row, 0) == *name);
    let fine = in_dns && text(&row, 1) == VERSION;
    narrator.check(fine, format!("blue or green, {VERSION}"), shown(&row))?;

    let row = query(narrator, &mut client, "SELECT CONNECTION_ID(), USER()").await?;
    narrator.check(text(&row, 0).parse::<u32>().is_ok(), "a connection id", shown(&row))?;

    let asleep = Duration::from_millis(250);
    let begin = Instant::now();
    let row = query(narrator, &mut client, "SELECT SLEEP(0.25)").await?;
    let slept = begin.elapsed();
    let fine = text(&row, 0) == "0" && slept >= asleep;
    narrator.check(fine, format!("0 after {}", format_duration(asleep)), shown(&row))?;

    let row = query(narrator, &mut client, "SELECT REPEAT('tide', 1000000)").await?;
    let fine = text(&row, 0) == "tide".repeat(1_000_000);
    narrator.check(fine, "4000000 bytes of tide", shown(&row))?;

    // A goodbye that is not answered in kind is the next step's business, not this one's.
    let _ = timeout(PATIENCE, client.quit()).await;
    Ok(1)
}

async fn failover(narrator: &mut Narrator, stage: &mut Stage) -> Result<u64, DemoError> {
    narrator.step("An endpoint dies")?;
    let mut held = connect(narrator, stage).await?;
    let row = query(narrator, &mut held, "SELECT @@hostname").await?;
    let number = NAMES[..2].iter().position(|name| text(&row, 0) == *name);
    narrator.check(number.is_some(), "blue or green", shown(&row))?;
    let number = number.unwrap_or_default();
    let (dead, survivor) = (NAMES[number], NAMES[1 - number]);

    if let Some(backend) = stage.backends[number].take() {
        backend.kill().await;
    }
    narrator.tell(&format!("{dead} is killed"), &stage.backend_address(number).to_string())?;

    let ended = timeout(PATIENCE, held.query("SELECT 1")).await;
    let outcome = match &ended {
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(row)) => shown(row),
        Err(_) => NO_ANSWER.to_owned(),
    };
    narrator.check(matches!(ended, Ok(Err(_))), "the end of the session", &outcome)?;
    narrator.tell("the session it served ends", &outcome)?;

    for _ in 0..AFTER_DEATH {
        let begin = Instant::now();
        let hostname = hostname(stage.bridge).await;
        let took = begin.elapsed();
        let seen = hostname.unwrap_or_else(|error| error.to_string());
        narrator.check(seen == survivor, survivor, &seen)?;
        narrator
            .tell("a new connection is answered", &format!("by {seen}, in {}", millis(took)))?;
    }
    Ok(1 + AFTER_DEATH as u64)
}

async fn dns_change(narrator: &mut Narrator, stage: &Stage) -> Result<u64, DemoError> {
    narrator.step("DNS moves the gateway")?;
    let new = NAMES[2];
    stage.move_gateway();
    let begin = Instant::now();
    let answer = format!("{} alone, which is {new}", stage.backend_address(2).ip());
    narrator.tell("the answer is now", &answer)?;

    let mut connections = 0;
    let mut looks = interval(LOOK_AGAIN);
    loop {
        looks.tick().await;
        connections += 1;
        let hostname = hostname(stage.bridge).await;
        let took = begin.elapsed();
        let seen = hostname.unwrap_or_else(|error| error.to_string());
        if seen == new {
            narrator.tell(
                "the bridge has followed",
                &format!("after {}, the TTL is {TTL} s", seconds(took)),
            )?;
            narrator.tell("connections until then", &format!("{connections}, none failed"))?;
            return Ok(connections);
        }
        let old = NAMES.contains(&seen.as_str());
        narrator.check(old, format!("an answer by any of {}", NAMES.join(", ")), &seen)?;
        let expected = format!("{new} within {}", format_duration(DNS_PATIENCE));
        narrator.check(took < DNS_PATIENCE, expected, &seen)?;
    }
}

async fn metrics(
    narrator: &mut Narrator,
    stage: &Stage,
    connections: u64,
) -> Result<(), DemoError> {
    narrator.step("The metrics that show it")?;
    let page = match timeout(PATIENCE, page(stage.admin, "/metrics")).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => return narrator.check(false, "the metrics page", error.to_string()),
        Err(_) => return narrator.check(false, "the metrics page", NO_ANSWER),
    };
    for (family, least) in [
        ("tidegate_connections_total", connections),
        ("tidegate_bytes_total", 4_000_000),
        ("tidegate_dial_failures_total", 1),
        ("tidegate_dns_lookups_total", 2),
        ("tidegate_endpoints", 1),
    ] {
        let samples = samples(&page, family);
        let sum: f64 = samples.iter().map(|(_, value)| value).sum();
        for (sample, value) in &samples {
            narrator.say(&format!("     {value:>9}  {sample}"))?;
        }
        let expected = format!("{family} of {least} at least");
        narrator.check(sum >= least as f64, expected, sum.to_string())?;
    }
    Ok(())
}

const NO_ANSWER: &str = "no answer in time";

/// Connects to the bridge, which has to work.
async fn connect(narrator: &mut Narrator, stage: &Stage) -> Result<Client, DemoError> {
    let failure = match timeout(PATIENCE, Client::connect(stage.bridge)).await {
        Ok(Ok(client)) => return Ok(client),
        Ok(Err(error)) => error.to_string(),
        Err(_) => NO_ANSWER.to_owned(),
    };
    Err(narrator.failed("a connection through the bridge", failure))
}

/// Runs a query, which has to work, and tells its first row and how long it took.
async fn query(narrator: &mut Narrator, client: &mut Client, sql: &str) -> Result<Row, DemoError> {
    let begin = Instant::now();
    let failure = match timeout(PATIENCE, client.query(sql)).await {
        Ok(Ok(row)) => {
            let outcome = format!("{}  ({})", shown(&row), millis(begin.elapsed()));
            narrator.tell(sql, &outcome)?;
            return Ok(row);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => NO_ANSWER.to_owned(),
    };
    Err(narrator.failed(format!("an answer to {sql}"), failure))
}

/// Which backend answers a new connection to `bridge`.
async fn hostname(bridge: SocketAddr) -> Result<String, ClientError> {
    let ask = async {
        let mut client = Client::connect(bridge).await?;
        let row = client.query("SELECT @@hostname").await?;
        client.quit().await?;
        Ok(text(&row, 0).to_owned())
    };
    timeout(PATIENCE, ask).await.unwrap_or(Err(ClientError::Silent))
}

/// Fetches a page of the admin endpoint: HTTP/1.0 ends it with the connection.
async fn page(admin: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = dial(admin).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(response.lines().next().unwrap_or("an empty answer").to_owned())),
    }
}

/// The samples of one family of a page in Prometheus' text format: name with labels, and value.
fn samples<'p>(page: &'p str, family: &str) -> Vec<(&'p str, f64)> {
    let of_family = page
        .lines()
        .filter(|line| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' '])));
    of_family
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(sample, value)| Some((sample, value.parse().ok()?)))
        .collect()
}

fn text(row: &Row, column: usize) -> &str {
    row.get(column).and_then(Option::as_deref).unwrap_or("NULL")
}

/// A row as it is told: its values, long ones cut.
fn shown(row: &Row) -> String {
    const LONGEST: usize = 40;
    let shown = |value: &Option<String>| match value.as_deref() {
        None => "NULL".to_owned(),
        Some(value) if value.chars().count() <= LONGEST => value.to_owned(),
        Some(value) => {
            let start: String = value.chars().take(12).collect();
            format!("{start}... {} bytes", value.len())
        }
    };
    row.iter().map(shown).collect::<Vec<_>>().join(", ")
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_the_family_alone() {
        let page = "# TYPE a_total counter\na_total{x=\"1\"} 3\na_total_more 9\na_total 4\n";
        assert_eq!(samples(page, "a_total"), [("a_total{x=\"1\"}", 3.0), ("a_total", 4.0)]);
    }

    #[test]
    fn a_long_value_is_told_by_its_start_and_length() {
        let row = vec![None, Some("a".to_owned()), Some("tide".repeat(100))];
        assert_eq!(shown(&row), "NULL, a, tidetidetide... 400 bytes");
    }
}
