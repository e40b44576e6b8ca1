//! A host of the test's own: its addresses, DNS, DMI, metadata and clock.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tidegate::demo::dns::DnsServer;

use crate::fake::Fake;
use crate::run::Doctor;
use crate::support::namespace::Namespace;
use crate::support::process::{command, installed, succeed};
use crate::support::skip;
use crate::support::tcp::{listener, serve};

/// The name of a private endpoint.
pub const PRIVATELINK: &str = "gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com";
/// The way in for everybody.
pub const PUBLIC: &str = "gateway01.us-east-1.prod.aws.tidbcloud.com";
/// A name of no service that is known.
pub const PLAIN: &str = "db.test";

/// A namespace in which every address can be had.
pub struct Place {
    pub namespace: Arc<Namespace>,
}

impl Place {
    /// With these addresses; nothing, with the reason printed, where the machine does not allow it.
    pub fn new(addresses: &[&str]) -> Option<Self> {
        let place = Self { namespace: Arc::new(Namespace::new()?) };
        for address in addresses {
            place.ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        Some(place)
    }

    pub fn ip(&self, args: &[&str]) {
        let mut ip = self.namespace.command("ip");
        ip.args(args);
        succeed(ip);
    }

    pub fn listen(&self, at: &str) -> TcpListener {
        self.namespace.enter(|| TcpListener::bind(at).unwrap())
    }

    /// A DNS server at one of the addresses, that knows these addresses of a name.
    pub fn dns(&self, at: &str, name: &str, addresses: &[&str]) -> DnsServer {
        let at: IpAddr = at.parse().unwrap();
        let dns = self.namespace.enter(|| DnsServer::start(SocketAddr::new(at, 53)).unwrap());
        dns.set(name, &ips(addresses), 60);
        dns
    }

    /// Such a server at each of these addresses, at the port of TiDB.
    pub fn serve(&self, fake: &Fake, at: &[&str]) {
        for ip in at {
            fake.clone().at(&self.listen(&format!("{ip}:4000")));
        }
    }

    /// A look at `gateway` from here.
    pub fn doctor(&self, gateway: &str) -> Doctor {
        Doctor::at(gateway).inside(&self.namespace)
    }

    /// A look at a name from here, for which these servers are asked.
    pub fn asks(&self, servers: Vec<DnsServer>, name: &str) -> Doctor {
        servers.into_iter().fold(self.doctor(name), |doctor, server| {
            doctor.nameserver(server.address()).keeping(server)
        })
    }
}

/// A look at [`PLAIN`] with one DNS server on the loopback, which is told what to answer.
pub fn named(tell: impl FnOnce(&DnsServer)) -> Doctor {
    named_at("127.0.0.1:4000".parse().unwrap(), tell)
}

/// As [`named`], with a server behind the name.
pub fn named_at(server: SocketAddr, tell: impl FnOnce(&DnsServer)) -> Doctor {
    let dns = dns(&[&server.ip().to_string()]);
    tell(&dns);
    let name = format!("{PLAIN}:{}", server.port());
    Doctor::at(name).nameserver(dns.address()).keeping(dns)
}

/// A DNS server on the loopback that knows these addresses of [`PLAIN`].
pub fn dns(addresses: &[&str]) -> DnsServer {
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    dns.set(PLAIN, &ips(addresses), 60);
    dns
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Lays a folder of its own over `/sys/class`, in which DMI names the vendor `$1`, and an empty file over
/// `/etc/resolv.conf`; and becomes the rest of the command.
const HOST: &str = r#"
    mount -t tmpfs none /sys/class && mkdir -p /sys/class/dmi/id || exit
    [ -z "$1" ] || for file in sys_vendor board_vendor chassis_vendor bios_vendor; do
        echo "$1" > "/sys/class/dmi/id/$file"
    done
    [ ! -e /etc/resolv.conf ] || mount --bind /dev/null /etc/resolv.conf || exit
    shift; exec "$@"
"#;

impl Doctor {
    /// On a host of which DMI says that (an empty text: nothing), with no DNS servers of its own.
    pub fn on(self, vendor: &str) -> Self {
        self.around(&["unshare", "--mount", "sh", "-c", HOST, "sh", vendor])
    }
}

/// Counts who calls at an address.
pub fn counted(place: &Place, at: &str) -> impl Fn() -> usize {
    let visits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&visits);
    serve(&place.listen(at), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    move || visits.load(Ordering::SeqCst)
}

/// EC2's metadata, at its own address of the namespace.
pub struct Metadata {
    visits: Arc<AtomicUsize>,
}

/// What is said of an instance.
#[derive(Clone)]
pub struct Instance {
    pub region: &'static str,
    pub zone_id: &'static str,
    /// The `Date` of every answer.
    pub date: String,
}

impl Metadata {
    pub const ADDRESS: &str = "169.254.169.254";

    pub fn of(place: &Place, instance: Instance) -> Self {
        Self::acting(place, move |stream| instance.answer(stream).unwrap_or_default())
    }

    /// Does this with every connection.
    pub fn acting(place: &Place, act: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let visits = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&visits);
        serve(&place.listen(&format!("{}:80", Self::ADDRESS)), move |stream| {
            count.fetch_add(1, Ordering::SeqCst);
            act(stream);
        });
        Self { visits }
    }

    pub fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

const TOKEN: &str = "AQAEAsometoken==";

impl Instance {
    /// On a free port of the loopback.
    pub fn start(self) -> SocketAddr {
        serve(&listener(), move |stream| self.answer(stream).unwrap_or_default())
    }

    /// IMDSv2: a token for a PUT, and answers for a token.
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                match line.trim_end() {
                    "" => break,
                    line => head.push(line.to_ascii_lowercase()),
                }
            }
            let has = |header: &str| head.iter().any(|line| line.starts_with(header));
            let token = format!("x-aws-ec2-metadata-token: {}", TOKEN.to_ascii_lowercase());
            let (status, body) = match head[0].split(' ').collect::<Vec<_>>()[..] {
                ["put", "/latest/api/token", _] => {
                    match has("x-aws-ec2-metadata-token-ttl-seconds: ") {
                        true => ("200 OK", TOKEN.to_owned()),
                        false => ("400 Bad Request", String::new()),
                    }
                }
                _ if !has(&token) => ("401 Unauthorized", String::new()),
                ["get", path, _] => match self.about(path) {
                    Some(body) => ("200 OK", body),
                    None => ("404 Not Found", String::new()),
                },
                _ => ("405 Method Not Allowed", String::new()),
            };
            let reply = format!(
                "HTTP/1.1 {status}\r\nDate: {}\r\nServer: EC2ws\r\nContent-Type: text/plain\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                self.date,
                body.len()
            );
            stream.write_all(reply.as_bytes()).ok()?;
        }
    }

    fn about(&self, path: &str) -> Option<String> {
        let zone = format!("{}a", self.region);
        Some(match path.trim_end_matches('/') {
            "/latest/meta-data/placement/region" => self.region.into(),
            "/latest/meta-data/placement/availability-zone" => zone,
            "/latest/meta-data/placement/availability-zone-id" => self.zone_id.into(),
            "/latest/dynamic/instance-identity/document" => {
                format!("{{\"region\":\"{}\",\"availabilityZone\":\"{zone}\"}}", self.region)
            }
            _ => return None,
        })
    }
}

/// What HTTP writes for the moment that is so many seconds from now.
pub fn http_date(shift: i64) -> String {
    let mut date = command("date");
    date.args(["-u", "-d", &format!("{shift} seconds"), "+%a, %d %b %Y %H:%M:%S GMT"]);
    date.env("LC_ALL", "C");
    succeed(date).trim_end().into()
}

/// A library under which a program's clock is off.
pub struct Clock {
    folder: TempDir,
}

impl Clock {
    /// Off by so many seconds; nothing, with the reason printed, where there is no C compiler.
    pub fn off_by(seconds: i64) -> Option<Self> {
        if !installed("cc") {
            skip("no `cc` here (Debian package gcc)");
            return None;
        }
        let clock = Self { folder: tempfile::tempdir().unwrap() };
        let source = clock.folder.path().join("clock.c");
        fs::write(&source, include_str!("clock.c")).unwrap();
        let mut cc = command("cc");
        cc.args(["-shared", "-fPIC", &format!("-DSHIFT=({seconds}LL)"), "-o"]);
        cc.arg(clock.library()).arg(source);
        succeed(cc);
        Some(clock)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    pub fn of(self, doctor: Doctor) -> Doctor {
        let preload = format!("LD_PRELOAD={}", self.library().display());
        doctor.around(&["env", &preload]).keeping(self)
    }
}
