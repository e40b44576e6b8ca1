//! The `tidegate` command: parses, dispatches, maps errors to exit codes.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::fs;
use std::future::pending;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches};
use rustix::termios::tcgetwinsize;
use tidegate::app::{self, App, BuildError};
use tidegate::cli::{self, Artefact, Cli, Command, Demo, Settings, Target, given};
use tidegate::config::{self, Access, Config, ConfigError, Overrides, TokenError};
use tidegate::control::{self, ControlError, Goal};
use tidegate::demo::{self, DemoOptions};
use tidegate::doctor::{self, Doctor, DoctorError, Lines, Screen, Status};
use tidegate::drain::{Drain, Signals};
use tidegate::lint;
use tidegate::load::{self, Output, OutputError, Plan, Scenario};
use tidegate::log::{self, Chain};
use tidegate::render::certificate::{self, Order, Signer};
use tidegate::render::{self, SetUp, SetUpError};
use tidegate::systemd;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

const OK: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIG: u8 = 78;

fn main() -> ExitCode {
    if let Err(error) = cli::check_encoding() {
        return Failure::from(error).tell();
    }
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match &cli.command {
        Command::Run(settings) => {
            load(settings, &matches).and_then(|config| serve(config, || load(settings, &matches)))
        }
        Command::Check(settings) => load(settings, &matches).and_then(|config| check(&config)),
        Command::Doctor(flags) => examine(flags, &matches),
        Command::Demo(demo) => show(demo),
        Command::Drain(drain) => begin_drain(drain, &matches),
        Command::Wait(wait) => wait_for(wait, &matches),
        Command::Status(status) => show_status(status, &matches),
        Command::Render { artefact } => render(artefact, &matches),
        Command::Lint(flags) => lint_files(flags),
        Command::Load { scenario } => load_test(scenario, &matches),
    };
    match result {
        Ok(()) => OK.into(),
        Err(failure) => failure.tell(),
    }
}

struct Failure {
    code: u8,
    /// For standard error; empty: all is said.
    message: String,
}

impl Failure {
    fn tell(self) -> ExitCode {
        if !self.message.is_empty() {
            // Not `eprintln!`, which panics when stderr is closed.
            let _ = writeln!(io::stderr(), "tidegate: {}", self.message);
        }
        self.code.into()
    }

    fn building(error: &BuildError, code: u8) -> Self {
        Self::with_hint(error, error.hint(), code)
    }

    /// A failure to get something out of a running bridge.
    fn asking(error: &ControlError) -> Self {
        let code = if error.is_configuration() { BAD_CONFIG } else { FAILED };
        Self::with_hint(error, error.hint(), code)
    }

    fn with_hint(error: &dyn Error, hint: Option<&str>, code: u8) -> Self {
        let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        Self { code, message: format!("{}{hint}", Chain(error)) }
    }

    /// A failure while running.
    fn running(error: impl Error) -> Self {
        Self { code: FAILED, message: Chain(&error).to_string() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = if error.is_usage() { USAGE } else { BAD_CONFIG };
        Self { code, message: error.to_string() }
    }
}

impl From<DoctorError> for Failure {
    fn from(error: DoctorError) -> Self {
        match error {
            DoctorError::Config(error) => error.into(),
            error => Self::with_hint(&error, error.hint(), BAD_CONFIG),
        }
    }
}

fn load(settings: &Settings, matches: &ArgMatches) -> Result<Config, Failure> {
    let config = finished(settings, &given(matches)?)?;
    app::preflight(&config).map_err(|error| Failure::building(&error, BAD_CONFIG))?;
    Ok(config)
}

/// The finished values, without a look at what they ask of this host.
fn finished(settings: &Settings, given: &Overrides) -> Result<Config, Failure> {
    let file = settings.config.as_deref().filter(is_given).map(read).transpose()?;
    Ok(config::load(file.as_ref().map(File::parts), given)?)
}

/// Prints the finished values, and what is to be said of the files that they name.
fn check(config: &Config) -> Result<(), Failure> {
    let found = app::preflight(config).map_err(|error| Failure::building(&error, BAD_CONFIG))?;
    for warning in found.warnings() {
        let _ = writeln!(io::stderr(), "tidegate: warning: {warning}");
    }
    say(&config.to_toml())
}

/// Which bridge is meant; `keys` are those that are looked for. A file in which none of them is
/// needed is not read: it may be for the bridge's eyes only.
fn access(target: &Target, keys: &[&str], matches: &ArgMatches) -> Result<Access, Failure> {
    let given = given(matches)?;
    let needed = keys.iter().any(|key| !given.0.contains_key(*key));
    let named = target.config.as_deref().filter(is_given);
    let file = named.filter(|_| needed).map(read).transpose()?;
    Ok(config::load_access(file.as_ref().map(File::parts), &given)?)
}

/// An empty variable is how a deployment says "not set"; an empty flag has been refused before.
fn is_given(path: &&Path) -> bool {
    !path.as_os_str().is_empty()
}

/// A file's text, and its name as errors write it.
struct File {
    text: String,
    origin: String,
}

impl File {
    fn parts(&self) -> (&str, &str) {
        (&self.text, &self.origin)
    }
}

fn read(path: &Path) -> Result<File, Failure> {
    let origin = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => Ok(File { text, origin }),
        Err(error) => {
            let message = format!("cannot read {origin}: {error}");
            Err(Failure { code: BAD_CONFIG, message })
        }
    }
}

/// Runs the bridge; `reload` reads its configuration again.
fn serve(config: Config, reload: impl Fn() -> Result<Config, Failure>) -> Result<(), Failure> {
    let inherited = systemd::inherited().map_err(|error| Failure {
        code: FAILED,
        message: format!(
            "cannot use a socket that was passed (LISTEN_FDS): {error}\n\
             hint: only TCP sockets are taken over: ListenStream=ADDRESS:PORT in the socket unit"
        ),
    })?;
    let logs = log::init(&config.log);
    control_runtime()?.block_on(async {
        let drain = Drain::new();
        let signals = Signals::install().map_err(Failure::running)?;
        let hangups = signal(SignalKind::hangup()).map_err(Failure::running)?;
        let app = App::build(config, inherited, drain.clone(), logs.control())
            .map_err(|error| Failure::building(&error, FAILED))?;
        say(&format!("{}\n", app.ready_line()))?;
        let (reloads, configs) = mpsc::channel(1);
        tokio::select! {
            result = app.run(configs) => result.map_err(Failure::running),
            () = signals.watch(&drain) => {
                Err(Failure { code: FAILED, message: "ended by a second signal".into() })
            }
            never = feed(reloads, hangups, reload) => match never {},
        }
    })
}

/// Reads the configuration again at each SIGHUP.
async fn feed(
    reloads: mpsc::Sender<Result<Config, String>>,
    mut hangups: Signal,
    reload: impl Fn() -> Result<Config, Failure>,
) -> Infallible {
    while hangups.recv().await.is_some() {
        let config = reload().map_err(|failure| failure.message);
        if reloads.send(config).await.is_err() {
            break;
        }
    }
    pending().await
}

fn show(demo: &Demo) -> Result<(), Failure> {
    let logs = log::init(&demo::config()?.log);
    let options = DemoOptions { once: demo.once };
    control_runtime()?.block_on(demo::run(options, logs.control())).map_err(Failure::running)
}

fn begin_drain(drain: &cli::Drain, matches: &ArgMatches) -> Result<(), Failure> {
    let access = access(&drain.target, &["admin", "admin_token_file"], matches)?;
    let token = match access.token_file.as_deref().map(config::read_token).transpose() {
        // It is asked for from other hosts only, and the file may be for the bridge's eyes only.
        Err(TokenError::Unreadable { .. })
            if drain.admin_token_file.is_none() && access.address.ip().is_loopback() =>
        {
            None
        }
        token => token.map_err(|error| Failure::with_hint(&error, None, BAD_CONFIG))?,
    };
    tell(control::drain(access.address, token.as_deref()))
}

fn wait_for(wait: &cli::Wait, matches: &ArgMatches) -> Result<(), Failure> {
    let address = access(&wait.target, &["admin"], matches)?.address;
    let goal = if wait.gone { Goal::Gone } else { Goal::Ready };
    tell(control::wait(address, goal, wait.max))
}

fn show_status(status: &cli::Status, matches: &ArgMatches) -> Result<(), Failure> {
    let address = access(&status.target, &["admin"], matches)?.address;
    tell(control::status(address, status.json))
}

/// Asks a running bridge, and prints what came of it.
fn tell(answer: impl Future<Output = Result<String, ControlError>>) -> Result<(), Failure> {
    let text = control_runtime()?.block_on(answer).map_err(|error| Failure::asking(&error))?;
    say(&text)
}

fn render(artefact: &Artefact, matches: &ArgMatches) -> Result<(), Failure> {
    type Render = fn(&Config, Option<&str>) -> Result<SetUp, SetUpError>;
    let (render, flags): (Render, _) = match artefact {
        Artefact::Certificate(flags) => return render_certificate(flags),
        Artefact::Cloudflared(flags) => (render::cloudflared::render, flags),
        Artefact::Hyperdrive(flags) => (render::hyperdrive::render, flags),
        Artefact::AwsCli(flags) => (render::aws_cli::render, flags),
    };
    // The files that it names are on the bridge's host, and this may be another.
    let config = finished(&flags.settings, &given(matches)?)?;
    let failed = |error: SetUpError| {
        let code = match &error {
            _ if error.is_usage() => USAGE,
            _ if error.is_configuration() => BAD_CONFIG,
            _ => FAILED,
        };
        Failure::with_hint(&error, error.hint().as_deref(), code)
    };
    let rendered = render(&config, flags.listener.as_deref()).map_err(failed)?;
    match &flags.out {
        Some(folder) => say(&rendered.write(folder, flags.force).map_err(failed)?),
        None => say(&rendered.to_string()),
    }
}

fn lint_files(flags: &cli::Lint) -> Result<(), Failure> {
    let sources = flags.files.iter().map(|file| lint::Source::read(file)).collect::<Result<_, _>>();
    let sources: Vec<_> = sources.map_err(|error| Failure::with_hint(&error, None, USAGE))?;
    let report = lint::lint(&sources);
    say(&if flags.json { report.to_json() } else { report.to_string() })?;
    match report.findings.is_empty() {
        true => Ok(()),
        false => Err(Failure { code: FAILED, message: String::new() }),
    }
}

fn render_certificate(flags: &cli::Certificate) -> Result<(), Failure> {
    let signer = match flags.ca_cert.clone().zip(flags.ca_key.clone()) {
        Some((certificate, key)) => Signer::Authority { certificate, key },
        None if flags.ca => Signer::NewAuthority,
        None => Signer::Itself,
    };
    let named = |name: &String| {
        name.parse().map_err(|error| Failure { code: USAGE, message: format!("NAME {error}") })
    };
    let names = flags.names.iter().map(named).collect::<Result<_, _>>()?;
    let (out, days, force) = (flags.out.clone(), flags.days, flags.force);
    let rendered = certificate::render(&Order { names, out, days, signer, force });
    let rendered = rendered.map_err(|error| {
        let code = if error.is_usage() { USAGE } else { FAILED };
        Failure::with_hint(&error, error.hint(), code)
    })?;
    say(&rendered.to_string())
}

/// Walks the path, and tells each finding at once or all at the end.
fn examine(flags: &cli::Doctor, matches: &ArgMatches) -> Result<(), Failure> {
    let given = given(matches)?;
    let doctor = Doctor::new(finished(&flags.settings, &given)?, &given)?;
    let runtime = control_runtime()?;
    let findings = match flags.json {
        true => {
            let all = runtime.block_on(doctor.examine(|_| Ok::<(), Failure>(())))?;
            say(&doctor::json(&all))?;
            all
        }
        false => {
            let lines = Lines::begin(io::stdout(), screen(), &doctor.gateways());
            let mut lines = lines.map_err(Failure::running)?;
            let all = runtime.block_on(doctor.examine(|finding| lines.tell(finding)));
            let all = all.map_err(Failure::running)?;
            lines.end(&all).map_err(Failure::running)?;
            all
        }
    };
    match doctor::overall(&findings) {
        // The report has said it.
        Status::Fail => Err(Failure { code: FAILED, message: String::new() }),
        _ => Ok(()),
    }
}

/// Standard output, if it is a terminal; coloured, if its user has nothing against it:
/// <https://no-color.org>.
fn screen() -> Screen {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return Screen::default();
    }
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
    // One that does not tell its width says 0.
    let columns = tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
    let columns = if columns == 0 { 100 } else { columns.clamp(60, 120) };
    Screen { columns: Some(columns), has_colours: !is_set("NO_COLOR") && !is_dumb }
}

fn load_test(scenario: &cli::Scenario, matches: &ArgMatches) -> Result<(), Failure> {
    use cli::Scenario::{Bulk, Compare, Connect, Idle, Ping, Query};
    let given = given(matches)?;
    let (scenario, flags) = match scenario {
        Compare { a, b } => return say(&load::compare(a, b).map_err(Failure::running)?),
        Connect(flags) => (Scenario::Connect, flags),
        Ping(flags) => (Scenario::Ping, flags),
        Query { load, .. } => (Scenario::query(&given)?, load),
        Bulk { load, .. } => (Scenario::bulk(&given)?, load),
        Idle { load, .. } => (Scenario::idle(&given)?, load),
    };
    let plan = Plan::read(scenario, &given)?;
    let unwritten = |code| move |error: OutputError| Failure::with_hint(&error, error.hint(), code);
    // What cannot be written is said now, not after the test.
    let output = |flag, path: &Option<PathBuf>| {
        path.as_deref().map(|path| Output::new(flag, path)).transpose().map_err(unwritten(USAGE))
    };
    let (json, html) = (output("--json", &flags.json)?, output("--html", &flags.html)?);
    let report = control_runtime()?.block_on(load::run(plan));
    let report = report.map_err(|error| Failure::with_hint(&error, error.hint(), FAILED))?;
    // One place that does not take it keeps it from no other.
    let told = say(&report.to_string());
    let json = json.map_or(Ok(()), |file| file.write(report.to_json()));
    let html = html.map_or(Ok(()), |file| file.write(report.to_html()));
    told.and(json.and(html).map_err(unwritten(FAILED)))?;
    match report.is_good() {
        true => Ok(()),
        false => Err(Failure { code: FAILED, message: "a bound was broken".into() }),
    }
}

fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::running)
}

fn control_runtime() -> Result<runtime::Runtime, Failure> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::running)
}
