//! The embedded backend and DNS server by themselves, and the demo that is made of them.

#![allow(clippy::disallowed_methods, reason = "a test may dial: its waits are bounded")]

use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use rustix::process::{Pid, Signal, kill_process};
use tidegate::demo::backend::{Backend, VERSION};
use tidegate::demo::dns::DnsServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// No wait of these tests takes as long, unless what is waited for never comes.
const PATIENCE: Duration = Duration::from_secs(60);

const PING: &[u8] = b"\x01\0\0\0\x0e";
/// A login without plugin, password and DEPRECATE_EOF, as packet 1.
const LOGIN: &[u8] = b"\x26\0\0\x01\x00\x82\0\0\0\0\0\x01\x2d\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0root\0\0";

async fn backend(name: &str) -> Backend {
    Backend::start(ANY_PORT, name).await.expect("loopback has a free port")
}

fn options(backend: &Backend) -> OptsBuilder {
    OptsBuilder::from_opts(Opts::default())
        .ip_or_hostname(backend.address().ip().to_string())
        .tcp_port(backend.address().port())
        .user(Some("demo"))
        .pass(Some("any password"))
}

async fn connect(backend: &Backend) -> Conn {
    Conn::new(options(backend)).await.expect("mysql_async connects")
}

/// Connects without a driver, and reads the greeting.
async fn greeted(backend: &Backend) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(backend.address()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let greeting = packet(&mut stream).await.unwrap();
    assert_eq!(greeting[4], 10);
    stream
}

/// One packet with its header.
async fn packet(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet).await?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]) as usize;
    packet.resize(4 + length, 0);
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

#[tokio::test]
async fn the_backend_answers_mysql_async() {
    let backend = backend("blue").await;
    let mut conn = connect(&backend).await;
    let row: Option<(i64, f64, String, Option<i64>, String)> =
        conn.query_first("SELECT 1, -2.5, 'two' AS b, NULL, @@hostname").await.unwrap();
    assert_eq!(row, Some((1, -2.5, "two".into(), None, "blue".into())));
    let row: Option<(String, u32)> =
        conn.query_first("SELECT VERSION(), CONNECTION_ID()").await.unwrap();
    assert_eq!(row, Some((VERSION.into(), conn.id())));
    conn.ping().await.unwrap();
    conn.query_drop("USE shop").await.unwrap();
    let row: Option<(String, String)> =
        conn.query_first("SELECT DATABASE(), USER()").await.unwrap();
    assert_eq!(row, Some(("shop".into(), "demo@127.0.0.1".into())));
    let none: Vec<i64> = conn.query("SELECT 1 LIMIT 0").await.unwrap();
    assert!(none.is_empty());
    assert!(conn.reset().await.unwrap());
    conn.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_row_of_several_packets_arrives_whole() {
    let backend = backend("blue").await;
    let mut conn = Conn::new(options(&backend).max_allowed_packet(Some(64 << 20))).await.unwrap();
    let value: Option<String> = conn.query_first("SELECT REPEAT('tide', 10000000)").await.unwrap();
    assert!(value == Some("tide".repeat(10_000_000)), "40,000,000 bytes came out changed");
}

#[tokio::test]
async fn sleep_takes_its_time_and_holds_nobody_up() {
    let backend = backend("blue").await;
    let (mut sleeper, mut other) = (connect(&backend).await, connect(&backend).await);
    let begin = Instant::now();
    let sleep = sleeper.query_first::<u8, _>("SELECT SLEEP(0.3)");
    let asked = async {
        other.query_first::<u8, _>("SELECT 1").await.unwrap();
        begin.elapsed()
    };
    let (slept, answered) = tokio::join!(sleep, asked);
    assert_eq!(slept.unwrap(), Some(0));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(answered < begin.elapsed());
}

#[tokio::test]
async fn what_it_does_not_understand_is_refused_and_the_session_goes_on() {
    let backend = backend("blue").await;
    let mut conn = connect(&backend).await;
    for (sql, code, state) in [
        ("INSERT INTO t VALUES (1)", 1064, "42000"),
        ("SELECT @@no_such_variable", 1193, "HY000"),
        ("SELECT REPEAT('x', 99999999)", 1301, "HY000"),
    ] {
        let Err(mysql_async::Error::Server(error)) = conn.query_drop(sql).await else {
            panic!("{sql} was not refused");
        };
        assert_eq!((error.code, error.state.as_str()), (code, state), "{sql}");
    }
    let Err(mysql_async::Error::Server(error)) = conn.exec_drop("SELECT ?", (1,)).await else {
        panic!("a prepared statement was not refused");
    };
    assert!(error.message.contains("no prepared statements"));
    assert_eq!(conn.query_first("SELECT 7").await.unwrap(), Some(7));
}

#[tokio::test]
async fn without_deprecate_eof_columns_and_rows_end_with_eof_packets() {
    let backend = backend("blue").await;
    let mut stream = greeted(&backend).await;
    stream.write_all(LOGIN).await.unwrap();
    assert_eq!(packet(&mut stream).await.unwrap(), b"\x07\0\0\x02\0\0\0\x02\0\0\0");
    stream.write_all(b"\x09\0\0\0\x03SELECT 5").await.unwrap();
    assert_eq!(packet(&mut stream).await.unwrap(), b"\x01\0\0\x01\x01");
    packet(&mut stream).await.unwrap();
    assert_eq!(packet(&mut stream).await.unwrap(), b"\x05\0\0\x03\xfe\0\0\x02\0");
    assert_eq!(packet(&mut stream).await.unwrap(), b"\x02\0\0\x04\x015");
    assert_eq!(packet(&mut stream).await.unwrap(), b"\x05\0\0\x05\xfe\0\0\x02\0");
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_is_answered_and_then_left() {
    let backend = backend("blue").await;
    let mut stream = greeted(&backend).await;
    stream.write_all(LOGIN).await.unwrap();
    packet(&mut stream).await.unwrap();
    stream.write_all(&[PING, PING].concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    for _ in 0..2 {
        assert_eq!(packet(&mut stream).await.unwrap()[3..5], [1, 0]);
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn hostile_input_ends_its_session_and_no_other() {
    let backend = backend("blue").await;
    let mut bystander = connect(&backend).await;
    let bare: [&[u8]; 5] = [
        b"\xff\xff\xff\x01 a header that claims 16 MiB of login",
        b"\x04\0\0\x01what",
        b"\x26\0\0\x07 a wrong sequence id",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x20\0\0\x01\x00\x8a\0\0\0\0\0\x01\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    let logged_in: [&[u8]; 4] = [
        b"\xff\xff\xff\0 a command that is to be continued",
        b"\0\0\0\0",
        b"\x01\0\0\x01\x0e",
        b"\x10\0\0\0\x03SELECT",
    ];
    let cases = bare.map(|input| (false, input)).into_iter();
    for (after_login, input) in cases.chain(logged_in.map(|input| (true, input))) {
        let mut stream = greeted(&backend).await;
        if after_login {
            stream.write_all(LOGIN).await.unwrap();
            packet(&mut stream).await.unwrap();
        }
        stream.write_all(input).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // A reset is an end as well: the session may not have read all there was.
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{input:?} left the session open");
    }
    bystander.ping().await.unwrap();
}

#[tokio::test]
async fn a_killed_backend_resets_its_sessions_and_can_come_back() {
    let first = Backend::start("127.0.0.77:0".parse().unwrap(), "blue").await.unwrap();
    let address = first.address();
    let mut stream = greeted(&first).await;
    first.kill().await;
    let reset = stream.read_u8().await.unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    // A program that another test starts holds a copy of the listening socket between its fork and
    // its exec, so this may take a moment.
    let deadline = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        match TcpStream::connect(address).await {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < deadline, "it still listens"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    let second = Backend::start(address, "blue again").await.expect("the address is free again");
    let mut conn = connect(&second).await;
    let name: Option<String> = conn.query_first("SELECT @@hostname").await.unwrap();
    assert_eq!(name.as_deref(), Some("blue again"));
}

/// Asks over UDP or TCP: the response code, the addresses with their TTL, and whether there is an SOA.
async fn ask(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    tcp: bool,
) -> (ResponseCode, Vec<(IpAddr, u32)>, bool) {
    let mut question = Message::new(77, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let question = question.to_vec().unwrap();
    let answer = if tcp {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_u16(question.len() as u16).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    } else {
        let socket = UdpSocket::bind(ANY_PORT).await.unwrap();
        socket.send_to(&question, server).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = timeout(PATIENCE, socket.recv(&mut answer)).await.unwrap().unwrap();
        answer.truncate(length);
        answer
    };
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 77);
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(v4) => Some((IpAddr::V4(v4.0), record.ttl)),
        RData::AAAA(v6) => Some((IpAddr::V6(v6.0), record.ttl)),
        _ => None,
    });
    let soa = answer.authorities.iter().any(|record| matches!(record.data, RData::SOA(_)));
    (answer.metadata.response_code, addresses.collect(), soa)
}

#[tokio::test]
async fn dns_answers_what_it_was_told_over_udp_and_tcp() {
    const NAME: &str = "gateway.tidegate.test.";
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let server = DnsServer::start(ANY_PORT).unwrap();
    let address = server.address();
    server.set("gateway.tidegate.test", &[v4(2), v6, v4(3)], 7);
    for tcp in [false, true] {
        let a = ask(address, NAME, RecordType::A, tcp).await;
        assert_eq!(a, (ResponseCode::NoError, vec![(v4(2), 7), (v4(3), 7)], false));
        let aaaa = ask(address, "GateWay.tidegate.TEST.", RecordType::AAAA, tcp).await;
        assert_eq!(aaaa, (ResponseCode::NoError, vec![(v6, 7)], false));
        let other = ask(address, "other.tidegate.test.", RecordType::A, tcp).await;
        assert_eq!(other, (ResponseCode::NXDomain, vec![], true));
    }
    server.set(NAME, &[v4(4)], 0);
    let a = ask(address, NAME, RecordType::A, false).await;
    assert_eq!(a, (ResponseCode::NoError, vec![(v4(4), 0)], false));
    let aaaa = ask(address, NAME, RecordType::AAAA, false).await;
    assert_eq!(aaaa, (ResponseCode::NoError, vec![], true));
    let counted = [RecordType::A, RecordType::AAAA, RecordType::TXT];
    assert_eq!(counted.map(|kind| server.queries(kind)), [5, 3, 0]);
}

#[test]
fn two_demos_at_once_tell_every_step_and_exit_0() {
    let demo = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["demo", "--once"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the demo starts")
    };
    let demos = [demo(), demo()];
    for demo in demos {
        let Output { status, stdout, stderr } = demo.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&stdout);
        let errors = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{status}\n{told}\n{errors}");
        for step in [
            "1. The parts",
            "2. Queries through the bridge",
            "3. An endpoint dies",
            "4. DNS moves the gateway",
            "5. The metrics that show it",
            "tidegate_connections_total",
            "the bridge has drained",
        ] {
            assert!(told.contains(step), "{step} is missing in\n{told}\n{errors}");
        }
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already, and that is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_demo_that_stays_serves_until_it_is_told_to_end() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let demo = command.arg("demo").stdout(Stdio::piped()).spawn().expect("the demo starts");
    let mut demo = Running(demo);
    let stdout = demo.0.stdout.take().expect("it is piped");
    let mut lines = io::BufReader::new(stdout).lines().map_while(Result::ok);
    // In words that the clients of MySQL and MariaDB both know.
    let port = lines
        .find_map(|line| {
            let (_, rest) = line.split_once("mysql --host 127.0.0.1 --port ")?;
            rest.strip_suffix(" --user demo")?.parse().ok()
        })
        .expect("the demo prints a mysql command");
    let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port);
    let mut conn = Conn::new(options).await.expect("mysql_async connects through the bridge");
    let name: Option<String> = conn.query_first("SELECT @@hostname").await.unwrap();
    assert_eq!(name.as_deref(), Some("amber"));
    conn.disconnect().await.unwrap();
    kill_process(Pid::from_child(&demo.0), Signal::TERM).unwrap();
    let status = demo.0.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(lines.last().as_deref(), Some("the bridge has drained"));
}
