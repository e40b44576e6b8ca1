//! The bridge under test: the real binary, its addresses, its metrics and its close records.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, prlimit};
use serde_json::Value;
use tempfile::{TempDir, TempPath};

use super::namespace::Namespace;
use super::process::{Process, command, command_as, copy_program, output};
use super::{PATIENCE, threads, until, until_it};

/// A bridge that runs and has said so.
pub struct Bridge {
    /// The first of [`Self::listening`]; most bridges have one, and port 0 stands for none.
    pub listen: SocketAddr,
    pub listening: Vec<SocketAddr>,
    /// The paths of its Unix sockets.
    pub sockets: Vec<PathBuf>,
    pub admin: SocketAddr,
    process: Process,
    log: Arc<Mutex<Vec<String>>>,
    namespace: Option<Arc<Namespace>>,
    file: Option<TempPath>,
    _etc: Option<TempDir>,
    _copy: Option<TempDir>,
}

/// What to start: a gateway or a file, and what is added to the command line.
pub struct Setup {
    args: Vec<String>,
    variables: Vec<(String, String)>,
    file: Option<TempPath>,
    namespace: Option<Arc<Namespace>>,
    etc: Option<TempDir>,
    log_is_read: bool,
    descriptors: Option<u32>,
    user: Option<u32>,
    socket: Option<(String, OwnedFd)>,
    dev_null: Option<PathBuf>,
}

impl Bridge {
    /// A bridge from a free port to `gateway`, on flags alone.
    pub fn to(gateway: impl ToString) -> Setup {
        let args = [&gateway.to_string(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        Setup::new(None).flags(&args).flags(&["--log-format", "json", "--threads", &threads()])
    }

    /// A bridge for any TCP, on flags alone.
    pub fn tcp(gateway: impl ToString) -> Setup {
        Self::to(gateway).flags(&["--protocol", "tcp"])
    }

    /// A bridge that does what a file says.
    pub fn from_file(toml: &str) -> Setup {
        Self::from_file_alone(toml).flags(&["--log-format", "json", "--threads", &threads()])
    }

    /// A bridge with not one setting from elsewhere.
    pub fn from_file_alone(toml: &str) -> Setup {
        Setup::new(Some(file(toml)))
    }

    /// A bridge for any TCP whose file begins with `top`.
    pub fn tcp_with(top: &str, gateway: impl ToString) -> Setup {
        Self::from_file(&format!(
            "admin = \"127.0.0.1:0\"\n{top}\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\nupstream = \"peer\"\nprotocol = \"tcp\"\n\
             [upstream.peer]\ngateway = \"{}\"\n",
            gateway.to_string()
        ))
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Writes another file in place of the one that it was started with.
    pub fn rewrite(&self, toml: &str) {
        fs::write(self.file.as_ref().expect("it was started from a file"), toml).unwrap();
    }

    /// Has the bridge read its settings again and waits until it says what came of it.
    pub fn reload(&self) -> String {
        let said = || {
            let log = self.log();
            let is_it = |line: &&String| {
                line.contains("\"message\":\"reloaded\"") || line.contains("cannot reload")
            };
            log.iter().filter(is_it).cloned().collect::<Vec<_>>()
        };
        let before = said().len();
        self.signal(Signal::HUP);
        until("it has read its settings again", || said().get(before).cloned())
    }

    /// Stops every thread of the process; SIGSTOP alone returns before that.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        let is_stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        };
        until("every thread has stopped", || {
            fs::read_dir(&tasks).unwrap().flatten().all(is_stopped).then_some(())
        });
    }

    pub fn is_running(&mut self) -> bool {
        self.process.has_ended().is_none()
    }

    /// Waits for the process to end by itself.
    pub fn ends(&mut self) -> ExitStatus {
        self.ends_within(PATIENCE)
    }

    pub fn ends_within(&mut self, patience: Duration) -> ExitStatus {
        self.process.wait(patience)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.http("GET", path)
    }

    pub fn http(&self, method: &str, path: &str) -> Reply {
        let ask = || http(self.admin, method, path, "");
        match &self.namespace {
            Some(namespace) => namespace.enter(ask),
            None => ask(),
        }
    }

    pub fn metrics(&self) -> Metrics {
        let reply = self.get("/metrics");
        assert_eq!(reply.status, 200, "{}", reply.body);
        Metrics::parse(&reply.body)
    }

    /// Waits until something has been relayed and nothing more has for so long, and returns how many
    /// bytes have been, both ways.
    pub fn relays_no_more_for(&self, quiet: Duration) -> f64 {
        let relayed = || self.metrics().sum("tidegate_bytes_total", &[]);
        let mut last = (relayed(), Instant::now());
        until("nothing moves", || {
            let now = relayed();
            if now != last.0 {
                last = (now, Instant::now());
            }
            (now > 0.0 && last.1.elapsed() > quiet).then_some(now)
        })
    }

    pub fn open_connections(&self) -> f64 {
        self.metrics().sum("tidegate_connections_open", &[])
    }

    /// Waits until nothing is open, and checks that what was accepted was closed, each once.
    pub fn has_accounted_for(&self, connections: f64) {
        let name = "every connection is counted in and out";
        let count = || {
            let metrics = self.metrics();
            [
                metrics.sum("tidegate_connections_open", &[]),
                metrics.sum("tidegate_connections_total", &[]),
                metrics.sum("tidegate_connections_closed_total", &[]),
            ]
        };
        until_it(name, count, |seen| *seen == [0.0, connections, connections]);
    }

    /// Everything logged so far, a line each.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for that many close records and returns them, oldest first.
    pub fn close_records(&self, count: usize) -> Vec<CloseRecord> {
        let look = || self.log().iter().filter_map(|line| CloseRecord::parse(line)).collect();
        until_it("close records", look, |seen: &Vec<CloseRecord>| seen.len() >= count)
    }

    pub fn close_record(&self) -> CloseRecord {
        self.close_records(1).remove(0)
    }

    /// How many file descriptors the process holds, those of pipes not counted: it keeps some of
    /// them when their session has ended.
    pub fn fds(&self) -> usize {
        self.descriptors().iter().filter(|(name, _)| !name.starts_with("pipe:")).count()
    }

    /// How many pipes it holds with both ends, as those for splicing are.
    pub fn pipes(&self) -> usize {
        self.whole_pipes().len()
    }

    /// How many bytes are in them.
    pub fn bytes_in_pipes(&self) -> u64 {
        let open = |path: PathBuf| fs::File::open(path).ok();
        let pipes = self.whole_pipes().into_iter().filter_map(open);
        pipes.map(|pipe| rustix::io::ioctl_fionread(pipe).unwrap()).sum()
    }

    fn whole_pipes(&self) -> Vec<PathBuf> {
        let mut pipes = self.descriptors();
        pipes.retain(|(name, _)| name.starts_with("pipe:"));
        pipes.sort();
        let both_ends = pipes.windows(2).filter(|ends| ends[0].0 == ends[1].0);
        both_ends.map(|ends| ends[0].1.clone()).collect()
    }

    /// What its file descriptors are, as /proc names it, and where they are found there.
    fn descriptors(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        // One that was closed meanwhile has no name.
        let named = |path: PathBuf| {
            let name = fs::read_link(&path).ok()?;
            Some((name.to_string_lossy().into_owned(), path))
        };
        entries.filter_map(|entry| named(entry.path())).collect()
    }

    /// Waits until the file descriptors of at least `sessions` sessions are given back.
    ///
    /// A session thread opens five of its own, and may do so after the bridge has begun to serve; so
    /// some more than `before` prove nothing, but one for each session does.
    pub fn gives_back_its_fds(&self, before: usize, sessions: usize) {
        let own = 2 + 5 * threads().parse::<usize>().unwrap();
        assert!(sessions > own, "too few sessions to tell");
        let name = format!("{before} file descriptors, as before");
        until_it(&name, || self.fds(), |now| *now <= before + own);
    }

    /// From now on it gets no descriptor of that number or of a greater one; those that it has stay.
    pub fn limit_descriptors(&self, limit: u64) {
        let limits = Rlimit { current: Some(limit), maximum: Some(self.most_descriptors()) };
        prlimit(Pid::from_raw(self.pid() as i32), Resource::Nofile, limits).unwrap();
    }

    /// The hard limit, which is the one it has set itself.
    pub fn most_descriptors(&self) -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(4).unwrap().parse().unwrap()
    }

    /// The CPU time that it has used, by the kernel's clock of 100 ticks a second.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name may hold anything; behind it, user and system time are the 12th and 13th field.
        let fields = stat.rsplit_once(") ").unwrap().1.split_whitespace();
        let ticks = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Resident memory that is no file's, in bytes.
    pub fn heap(&self) -> u64 {
        self.status("RssAnon:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Setup {
    fn new(file: Option<TempPath>) -> Self {
        let mut args = vec!["run".to_owned()];
        if let Some(file) = &file {
            args.extend(["--config".into(), file.to_str().unwrap().into()]);
        }
        Self {
            args,
            variables: Vec::new(),
            file,
            namespace: None,
            etc: None,
            log_is_read: true,
            descriptors: None,
            user: None,
            socket: None,
            dev_null: None,
        }
    }

    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.args.extend(flags.iter().map(|flag| flag.to_string()));
        self
    }

    pub fn variables(mut self, variables: &[(&str, &str)]) -> Self {
        self.variables
            .extend(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        self
    }

    pub fn inside(mut self, namespace: &Arc<Namespace>) -> Self {
        self.namespace = Some(Arc::clone(namespace));
        self
    }

    /// The bridge sees these files in place of those of `/etc`; only in a namespace.
    pub fn with_etc(mut self, files: &[(&str, &str)]) -> Self {
        let etc = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(etc.path().join(name), text).unwrap();
        }
        self.etc = Some(etc);
        self
    }

    /// The file that the bridge sees as `/etc/NAME`.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.etc.as_ref().unwrap().path().join(name)
    }

    /// A hard limit on file descriptors.
    pub fn with_descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// The bridge runs as this user, without a capability; as the test's own user if that is not
    /// root.
    pub fn run_by(mut self, user: u32) -> Self {
        self.user = geteuid().is_root().then_some(user);
        self
    }

    /// Passes a listening socket under a name, as a service manager does.
    pub fn with_socket(mut self, name: &str, socket: &TcpListener) -> Self {
        self.socket = Some((name.to_owned(), socket.try_clone().unwrap().into()));
        self
    }

    /// The bridge sees that file as `/dev/null`; needs the right to mount.
    pub fn with_dev_null(mut self, file: &Path) -> Self {
        self.dev_null = Some(file.to_owned());
        self
    }

    /// Nobody reads what the bridge writes to its standard error.
    pub fn with_an_unread_log(mut self) -> Self {
        self.log_is_read = false;
        self
    }

    /// Starts the bridge and waits until it serves.
    pub fn start(self) -> Bridge {
        let args = self.args.clone();
        self.try_start().unwrap_or_else(|said| panic!("no ready line from {args:?}:\n{said}"))
    }

    /// Starts the bridge and waits until it serves; what it said if it ended instead.
    pub fn try_start(self) -> Result<Bridge, String> {
        let mut copy = None;
        let mut command = match (&self.namespace, &self.etc) {
            (Some(namespace), Some(etc)) => {
                let mut inside = namespace.command("unshare");
                inside.args(["--mount", "sh", "-c", BIND_AND_RUN, "sh"]).arg(etc.path());
                inside.arg(TIDEGATE);
                inside
            }
            (Some(namespace), None) => namespace.command(TIDEGATE),
            (None, _) => match (self.descriptors, self.user) {
                (Some(limit), _) => {
                    let mut limited = command("prlimit");
                    limited.args([&format!("--nofile={limit}"), "--", TIDEGATE]);
                    limited
                }
                (None, Some(user)) => {
                    copy = Some(copy_for_all());
                    let program = copy.as_ref().unwrap().path().join("tidegate");
                    command_as(user, program.to_str().unwrap())
                }
                (None, None) if self.dev_null.is_some() => {
                    let mut apart = command("unshare");
                    apart.args(["--mount", "sh", "-c", BIND_NULL_AND_RUN, "sh"]);
                    apart.args(&self.dev_null).arg(TIDEGATE);
                    apart
                }
                (None, None) if self.socket.is_some() => {
                    let mut passing = command("sh");
                    passing.args(["-c", PASS_AND_RUN, "sh", TIDEGATE]);
                    passing
                }
                (None, None) => command(TIDEGATE),
            },
        };
        command.args(&self.args).stdout(Stdio::piped()).stderr(Stdio::piped());
        without_settings(&mut command);
        command.envs(self.variables);
        if let Some((name, socket)) = self.socket {
            command.env("LISTEN_FDNAMES", name).stdin(socket);
        }
        let mut process = Process::spawn(command);

        let log = Arc::new(Mutex::new(Vec::new()));
        let reading = self.log_is_read.then(|| {
            let lines = BufReader::new(process.child.stderr.take().unwrap()).lines();
            let log = Arc::clone(&log);
            thread::spawn(move || {
                lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push(line))
            })
        });
        let (said, listen) = channel();
        let lines = BufReader::new(process.child.stdout.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let line = listen.recv_timeout(PATIENCE).map_err(|error| {
            // One that ends has said why, but that may still be on its way.
            if error == RecvTimeoutError::Disconnected {
                reading.into_iter().for_each(|reading| reading.join().unwrap());
            }
            log.lock().unwrap().join("\n")
        })?;
        let (listening, sockets, admin) =
            addresses(&line).ok_or_else(|| format!("not a ready line: {line}"))?;
        Ok(Bridge {
            listen: listening.first().copied().unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into()),
            listening,
            sockets,
            admin,
            process,
            log,
            namespace: self.namespace,
            file: self.file,
            _etc: self.etc,
            _copy: copy,
        })
    }
}

/// Lays the files of the folder `$1` over those of `/etc` and becomes the rest of the command.
const BIND_AND_RUN: &str = r#"
    for file in "$1"/*; do
        over="/etc/${file##*/}"
        # A bare chroot has no /etc/hosts.
        [ -e "$over" ] || : > "$over"
        mount --bind "$file" "$over" || exit
    done
    shift; exec "$@"
"#;

/// Lays the file `$1` over `/dev/null` and becomes the rest of the command.
const BIND_NULL_AND_RUN: &str = r#"mount --bind "$1" /dev/null || exit; shift; exec "$@""#;

/// Becomes the rest of the command, with what is its standard input as the one socket of
/// sd_listen_fds(3).
const PASS_AND_RUN: &str = r#"export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&0 </dev/null"#;

pub const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// The binary where every user can reach it: the way to the build folder may be closed to others.
pub fn copy_for_all() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    copy_program(Path::new(TIDEGATE), &folder.path().join("tidegate"));
    folder
}

/// Where it listens and where its admin endpoint is, from
/// `tidegate: listening on ADDRESS,… -> GATEWAY (pool MODE), …; admin on http://ADDRESS`.
fn addresses(line: &str) -> Option<(Vec<SocketAddr>, Vec<PathBuf>, SocketAddr)> {
    let (listening, admin) = line.split_once("; admin on http://")?;
    let forwards = listening.strip_prefix("tidegate: listening on ")?.strip_suffix(')')?;
    let (mut listen, mut sockets) = (Vec::new(), Vec::new());
    for forward in forwards.split("), ") {
        let (addresses, _to) = forward.split_once(" -> ")?;
        for address in addresses.split(',') {
            match address.strip_prefix("unix:") {
                Some(path) => sockets.push(path.into()),
                None => listen.push(address.parse().ok()?),
            }
        }
    }
    Some((listen, sockets, admin.parse().ok()?))
}

/// A file that lasts as long as the value.
pub fn file(text: &str) -> TempPath {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.into_temp_path()
}

/// Runs the binary to its end, with no settings from the environment.
pub fn tidegate(args: &[&str]) -> Output {
    tidegate_in(args, &[])
}

/// Runs the binary to its end, with these settings from the environment and no others.
pub fn tidegate_in(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = command(TIDEGATE);
    without_settings(&mut command);
    command.args(args).envs(environment.iter().copied());
    output(command)
}

/// The same in a namespace, with no settings from the environment.
pub fn tidegate_inside(namespace: &Namespace, args: &[&str]) -> Output {
    let mut command = namespace.command(TIDEGATE);
    without_settings(&mut command);
    command.args(args);
    output(command)
}

/// No setting of whoever runs the tests.
pub fn without_settings(command: &mut Command) {
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_"))
    {
        command.env_remove(name);
    }
}

/// An answer of the admin endpoint.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

/// Asks an admin endpoint; `headers` are whole lines, each with its line end.
pub fn http(address: SocketAddr, method: &str, path: &str, headers: &str) -> Reply {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (headers, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, headers: headers.to_lowercase(), body: body.into() }
}

/// One scrape.
#[derive(Debug)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).map(Sample::parse).collect())
    }

    /// The samples of a name that have all these labels.
    pub fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let has = |sample: &Sample| {
            labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.0.iter().filter(|sample| sample.name == name && has(sample)).collect()
    }

    /// Their sum; 0 when there are none, as a counter that never moved may be absent.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).iter().map(|sample| sample.value).sum()
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (key, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
        let labels = labels.strip_suffix('}').unwrap().split_terminator("\",").map(|pair| {
            let (key, value) = pair.split_once("=\"").unwrap();
            (key.to_string(), value.trim_end_matches('"').to_string())
        });
        Self { name: name.into(), labels: labels.collect(), value: value.parse().unwrap() }
    }
}

/// The line that every connection leaves behind.
#[derive(Debug, Clone)]
pub struct CloseRecord(pub Value);

impl CloseRecord {
    /// Nothing, if the line is another one.
    fn parse(line: &str) -> Option<Self> {
        let mut line: Value = serde_json::from_str(line).ok()?;
        let fields = line.get_mut("fields").map(Value::take).unwrap_or(line);
        (fields["message"] == "closed").then_some(Self(fields))
    }

    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {}", self.0))
    }

    pub fn number(&self, field: &str) -> f64 {
        self.0[field].as_f64().unwrap_or_else(|| panic!("no number `{field}` in {}", self.0))
    }
}
