//! A MariaDB of the test's own: a private data directory, a free port, TLS, and a hard death.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use mysql_async::{Conn, Opts, OptsBuilder};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use tempfile::TempDir;

use super::namespace::Namespace;
use super::process::{Process, command, installed, succeed};
use super::tcp::free_port;
use super::{PATIENCE, skip, until};

/// How a data directory is made.
const INSTALL: &[&str] = &[
    "--no-defaults",
    "--auth-root-authentication-method=normal",
    "--skip-test-db",
    // Without /etc/hosts, as in a bare chroot, it finds no localhost and would give up.
    "--force",
    LOG_SIZE,
];
/// Less than comes by itself, as it is copied for each server.
const LOG_SIZE: &str = "--innodb-log-file-size=32M";
pub const USER: &str = "app";
pub const PASSWORD: &str = "ebb and flow";

/// A server that is killed and whose data is removed when it is dropped.
pub struct MariaDb {
    pub port: u16,
    pub certificates: Certificates,
    process: Mutex<Option<Process>>,
    options: Vec<String>,
    namespace: Option<Arc<Namespace>>,
    dir: TempDir,
}

impl MariaDb {
    /// Starts a server; nothing, with the reason printed, where MariaDB is not installed.
    pub fn start(options: &[&str]) -> Option<Self> {
        Self::start_where(options, None)
    }

    /// As [`Self::start`], at all addresses of a namespace, and with these lines for `/etc/hosts`.
    pub fn start_inside(namespace: &Arc<Namespace>, hosts: &str, options: &[&str]) -> Option<Self> {
        Self::start_where(options, Some((Arc::clone(namespace), hosts)))
    }

    fn start_where(options: &[&str], place: Option<(Arc<Namespace>, &str)>) -> Option<Self> {
        for (program, package) in
            [("mariadbd", "mariadb-server"), ("mariadb", "mariadb-client"), ("openssl", "openssl")]
        {
            if !installed(program) {
                skip(&format!("no `{program}` here (Debian package {package})"));
                return None;
            }
        }
        let dir = tempfile::Builder::new().prefix("mariadb").tempdir().unwrap();
        // The server runs as a user of its own and has to get in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let certificates = Certificates::make(dir.path());
        install(dir.path());
        let namespace = place.map(|(namespace, hosts)| {
            fs::write(dir.path().join("hosts"), hosts).unwrap();
            namespace
        });
        let mut server = Self {
            port: 0,
            certificates,
            process: Mutex::new(None),
            options: options.iter().map(|option| option.to_string()).collect(),
            namespace,
            dir,
        };
        // Between finding a port and using it somebody else may take it.
        let mut attempts = 0;
        loop {
            server.port = free_port();
            attempts += 1;
            match server.run() {
                Ok(()) => return Some(server),
                Err(log) => assert!(attempts < 5, "mariadbd does not start:\n{log}"),
            }
        }
    }

    /// One plain server for all tests of a binary that run at the same time.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<MariaDb>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let server = shared.upgrade().or_else(|| Self::start(&[]).map(Arc::new))?;
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// `kill -9`: no goodbye to anyone.
    pub fn kill(&self) {
        drop(self.process.lock().unwrap().take());
    }

    /// `SIGSTOP` makes it hang, and its kernel still accepts; `SIGCONT` lets it go on.
    pub fn signal(&self, signal: Signal) {
        self.process.lock().unwrap().as_ref().expect("a server that runs").signal(signal);
    }

    /// Starts the server at the port it has, and waits until it greets.
    pub fn restart(&self) {
        self.run().unwrap_or_else(|log| panic!("mariadbd does not start again:\n{log}"));
    }

    /// Starts the server and waits until it greets; what it said if it ended instead.
    fn run(&self) -> Result<(), String> {
        let mut process = Process::spawn(self.command());
        until("MariaDB greets or ends", || {
            if process.has_ended().is_some() {
                let log = fs::read_to_string(self.dir.path().join("data/error.log"));
                return Some(Err(log.unwrap_or_default()));
            }
            let looks = || greets(self.address());
            let greets = match &self.namespace {
                Some(namespace) => namespace.enter(looks),
                None => looks(),
            };
            greets.then_some(Ok(()))
        })?;
        *self.process.lock().unwrap() = Some(process);
        Ok(())
    }

    /// The command-line client at `port`, which may be ours or a bridge's; the caller adds the rest.
    pub fn client(&self, port: u16) -> Command {
        let client = match &self.namespace {
            Some(namespace) => namespace.command("mariadb"),
            None => command("mariadb"),
        };
        Self::client_to(client, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// The command-line client in a namespace that need not be the server's.
    pub fn client_inside(&self, namespace: &Namespace, to: SocketAddr) -> Command {
        Self::client_to(namespace.command("mariadb"), to)
    }

    fn client_to(mut client: Command, to: SocketAddr) -> Command {
        client.args(["--no-defaults", "--protocol=tcp", "--batch", "--skip-column-names"]);
        client.args([
            &format!("--host={}", to.ip()),
            &format!("--port={}", to.port()),
            &format!("--user={USER}"),
            &format!("--password={PASSWORD}"),
        ]);
        client.arg("--database=test");
        client
    }

    /// The command-line client at a Unix socket, which is a bridge's.
    pub fn client_at(&self, socket: &Path) -> Command {
        let mut client = command("mariadb");
        client.args(["--no-defaults", "--protocol=socket", "--batch", "--skip-column-names"]);
        client.arg(format!("--socket={}", socket.display()));
        client.args([&format!("--user={USER}"), &format!("--password={PASSWORD}")]);
        client.arg("--database=test");
        client
    }

    /// What the command-line client prints for a statement.
    pub fn query(&self, port: u16, sql: &str) -> String {
        let mut client = self.client(port);
        client.args(["--execute", sql]);
        succeed(client).trim_end().into()
    }

    /// For mysql_async, at `port`.
    pub fn opts(&self, port: u16) -> OptsBuilder {
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port);
        // Told of a local server, mysql_async would leave the bridge for the server's Unix socket.
        opts.prefer_socket(false).user(Some(USER)).pass(Some(PASSWORD)).db_name(Some("test"))
    }

    pub async fn connect(&self, port: u16) -> Conn {
        Conn::new(Opts::from(self.opts(port))).await.unwrap()
    }

    /// sysbench's settings for a server at `port`.
    pub fn sysbench(&self, port: u16, test: &str) -> Command {
        let mut sysbench = command("sysbench");
        sysbench.args([test, "--db-driver=mysql", "--mysql-host=127.0.0.1", "--mysql-db=test"]);
        sysbench.args([
            format!("--mysql-port={port}"),
            format!("--mysql-user={USER}"),
            format!("--mysql-password={PASSWORD}"),
        ]);
        sysbench
    }

    fn command(&self) -> Command {
        let path = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let mut server = match &self.namespace {
            None => command("setpriv"),
            Some(namespace) => {
                let mut server = namespace.command("unshare");
                server.args(["--mount", "sh", "-c", BIND_HOSTS_AND_RUN, "sh", &path("hosts")]);
                server.arg("setpriv");
                server
            }
        };
        as_server_user(&mut server);
        server.args([
            "--no-defaults".into(),
            format!("--datadir={}", path("data")),
            format!("--socket={}", path("data/socket")),
            format!("--pid-file={}", path("data/pid")),
            format!("--log-error={}", path("data/error.log")),
            format!("--init-file={}", path("init.sql")),
            format!("--port={}", self.port),
            format!("--ssl-ca={}", self.certificates.ca.display()),
            format!("--ssl-cert={}", self.certificates.server.display()),
            format!("--ssl-key={}", self.certificates.key.display()),
            match self.namespace {
                None => "--bind-address=127.0.0.1".into(),
                Some(_) => "--bind-address=0.0.0.0".into(),
            },
            "--skip-networking=0".into(),
            "--skip-name-resolve".into(),
            "--local-infile=1".into(),
            "--max-allowed-packet=64M".into(),
            // Tests pause for longer than the server's own patience of 60 and 30 s.
            "--net-write-timeout=600".into(),
            "--net-read-timeout=600".into(),
            "--innodb-lock-wait-timeout=600".into(),
            // Speed instead of safety: the data is thrown away anyway.
            "--innodb-flush-log-at-trx-commit=0".into(),
            "--skip-innodb-doublewrite".into(),
            LOG_SIZE.into(),
            // Memory that is not cleared for nobody's use: half the time of a start.
            "--innodb-buffer-pool-size=16M".into(),
            "--aria-pagecache-buffer-size=8M".into(),
            "--key-buffer-size=1M".into(),
        ]);
        server.env("TMPDIR", path("tmp"));
        server.args(&self.options).stdout(Stdio::null()).stderr(Stdio::null());
        server
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A certificate authority, a server certificate for the name localhost, and a stranger's CA.
pub struct Certificates {
    pub ca: PathBuf,
    pub server: PathBuf,
    pub key: PathBuf,
    pub wrong_ca: PathBuf,
}

impl Certificates {
    fn make(dir: &Path) -> Self {
        let certificates = Self {
            ca: dir.join("ca.pem"),
            server: dir.join("server.pem"),
            key: dir.join("server.key"),
            wrong_ca: dir.join("stranger.pem"),
        };
        authority(&certificates.ca, &dir.join("ca.key"), "tidegate test CA");
        authority(&certificates.wrong_ca, &dir.join("stranger.key"), "a stranger");
        let mut openssl =
            certificate(&certificates.server, &certificates.key, "tidegate test server");
        openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-CA").arg(&certificates.ca).arg("-CAkey").arg(dir.join("ca.key"));
        succeed(openssl);
        fs::set_permissions(&certificates.key, fs::Permissions::from_mode(0o644)).unwrap();
        certificates
    }
}

fn authority(file: &Path, key: &Path, name: &str) {
    let mut openssl = certificate(file, key, name);
    openssl.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    succeed(openssl);
}

fn certificate(file: &Path, key: &Path, name: &str) -> Command {
    let mut openssl = command("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args(["-subj", &format!("/CN={name}")]).arg("-out").arg(file).arg("-keyout").arg(key);
    openssl
}

/// Lays out an empty data directory and writes what the server does first.
///
/// A server that starts empties its folder for temporary tables, so it must not be anybody else's.
fn install(dir: &Path) {
    let tmp = dir.join("tmp");
    fs::create_dir(&tmp).unwrap();
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).unwrap();
    copy(empty_data(), &dir.join("data"));
    let init = format!(
        "CREATE DATABASE IF NOT EXISTS test;\n\
         CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{PASSWORD}';\n\
         GRANT ALL ON *.* TO {USER}@'%';\n"
    );
    fs::write(dir.join("init.sql"), init).unwrap();
}

/// A data directory to be copied. It takes a server two seconds to make one, so it is kept for all
/// tests, and made anew for another version.
fn empty_data() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut version = command("mariadbd");
        version.args(["--no-defaults", "--version"]);
        let (version, user) = (succeed(version), rustix::process::geteuid());
        let mut hash = DefaultHasher::new();
        (version, user.as_raw(), INSTALL).hash(&mut hash);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let data = folder.join(format!("mariadb-{:016x}", hash.finish()));
        // Binaries run at the same time: one makes it, the others wait.
        let lock = fs::File::create(data.with_extension("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        if !data.exists() {
            let unfinished = tempfile::tempdir_in(folder).unwrap();
            make_data(&unfinished.path().join("data"));
            fs::rename(unfinished.path().join("data"), &data).unwrap();
        }
        data
    })
}

fn make_data(data: &Path) {
    // Not at its place: the server's user need not be able to get there.
    let (made, tmp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::set_permissions(made.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let mut install = command("mariadb-install-db");
    install.env("TMPDIR", tmp.path()).args(INSTALL);
    install.arg(format!("--datadir={}", made.path().join("data").display()));
    if rustix::process::geteuid().is_root() {
        install.arg("--user=mysql");
    }
    succeed(install);
    copy(&made.path().join("data"), data);
}

fn copy(from: &Path, to: &Path) {
    let mut copy = command("cp");
    copy.args(["--archive", "--sparse=always"]).arg(from).arg(to);
    succeed(copy);
}

/// Lays the file `$1` over `/etc/hosts` and becomes the rest of the command.
const BIND_HOSTS_AND_RUN: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// Adds the server to a command that ends in `setpriv`.
///
/// The server refuses to run as root. It does not change its user itself here: that would clear the
/// signal that ends it with the test process.
fn as_server_user(setpriv: &mut Command) {
    if rustix::process::geteuid().is_root() {
        setpriv.args(["--reuid", "mysql", "--regid", "mysql", "--clear-groups"]);
    }
    setpriv.args(["--pdeathsig", "KILL", "--", "mariadbd"]);
}

/// Whether a server says there that clients are welcome.
pub fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut header = [0; 5];
    stream.read_exact(&mut header).is_ok() && header[4] == 10
}
