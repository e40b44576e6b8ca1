//! One cell of the matrix: a client program that runs twice, and what is made of the two runs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::compare::{Excuse, Output, Verdict, compare};
use crate::modes::Mode;
use crate::servers::{DATABASE, Server};
use crate::support::mariadb::{PASSWORD, USER};
use crate::support::process::{Process, command};

/// A program that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(240);

/// Files that client programs read.
pub struct Inputs {
    folder: TempDir,
}

/// A client program, and the server that it talks to.
pub struct Pairing<'a> {
    server: &'a Server,
    program: &'a [String],
    /// Whether it can log in, without TLS, where MySQL does not remember its password.
    seals: bool,
    /// What it printed, if all was well, without anything in between: that is the same in all modes in which
    /// it does the same, so that it runs once for them. By what it was told: of TLS, and its files.
    direct: HashMap<(bool, PathBuf), Rc<Run>>,
}

/// What a client printed, direct and through what stands in between.
pub struct Runs {
    direct: Rc<Run>,
    through: Run,
}

struct Run {
    text: String,
    end: Result<(), String>,
}

impl Inputs {
    /// `big.txt`, one value of that many bytes of which no two parts are equal; `rows.tsv`, for
    /// LOAD DATA.
    pub fn make(big: usize) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let write = |name, text: &mut dyn FnMut(&mut dyn Write)| {
            let file = File::create(folder.path().join(name)).expect("a scratch file");
            let mut file = BufWriter::new(file);
            text(&mut file);
            file.flush().expect("space for scratch files");
        };
        write("big.txt", &mut |file| {
            (0..big / 8).for_each(|number| write!(file, "{number:08}").expect("space"));
        });
        write("rows.tsv", &mut |file| {
            (0..20_000).for_each(|id| writeln!(file, "{id}\trow number {id}").expect("space"));
        });
        Self { folder }
    }
}

impl<'a> Pairing<'a> {
    pub fn new(server: &'a Server, program: &'a [String], seals: bool) -> Self {
        Self { server, program, seals, direct: HashMap::new() }
    }

    /// Runs the program through `mode`, and direct if it has not run well so yet; or says why neither can be.
    pub fn run(&mut self, mode: &Mode, inputs: &Inputs) -> Result<Runs, String> {
        let told = (mode.tls, inputs.folder.path().to_owned());
        let direct = match self.direct.get(&told) {
            Some(direct) => Rc::clone(direct),
            None => {
                self.server.seed(mode.tls, mode.tls || self.seals)?;
                Rc::new(self.run_at(self.server.port, mode.tls, inputs))
            }
        };
        if direct.output().is_well() {
            self.direct.insert(told, Rc::clone(&direct));
        }
        self.server.seed(mode.server_tls, mode.tls || self.seals)?;
        let through = mode.start(self.server.address());
        let mut run = self.run_at(through.port, mode.tls, inputs);
        if mode.warm && run.end.is_ok() && through.lent() == 0.0 {
            run.end = Err("no client was lent a warm connection".into());
        }
        Ok(Runs { direct, through: run })
    }

    fn run_at(&self, port: u16, tls: bool, inputs: &Inputs) -> Run {
        let Self { server, program, .. } = self;
        let scratch = TempDir::new().expect("a scratch folder");
        let printed = scratch.path().join("stdout");
        let said = scratch.path().join("stderr");
        let mut command = command(&program[0]);
        command.args(&program[1..]).args([&port.to_string(), USER, PASSWORD, DATABASE]);
        command.arg(inputs.folder.path()).arg(if tls { "tls" } else { "plain" });
        command.current_dir(scratch.path()).stdin(Stdio::null());
        command.stdout(File::create(&printed).expect("a scratch file"));
        command.stderr(File::create(&said).expect("a scratch file"));
        // Whatever the caller's is: what is printed has characters beyond ASCII.
        command.env("LC_ALL", "C.UTF-8");
        // A group of its own, so that a shell is ended with what it runs.
        command.process_group(0);
        let end = end_of(Process::spawn(command));
        let read = |path| shown(&fs::read(path).unwrap_or_default());
        let said = read(said);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let text = read(printed) + &server.released();
        Run { text, end: end.map_err(|end| format!("{end}: {last}")) }
    }
}

/// Text as it is; bytes that are none as `\xff`, so that none is taken for another.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// How a program ends: by itself and with 0, or what it does instead.
fn end_of(mut process: Process) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match process.has_ended() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if Instant::now() > deadline => {
                let _ = kill_process_group(Pid::from_child(&process.child), Signal::KILL);
                return Err(format!("still running after {PATIENCE:?}"));
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

impl Runs {
    /// The verdict over every section.
    pub fn verdicts(&self, excuses: &[Excuse]) -> Vec<(String, Verdict)> {
        compare(&self.direct.output(), &self.through.output(), excuses)
    }

    /// Writes what was printed into two files whose names begin so.
    pub fn keep(&self, folder: &Path, name: &str) -> io::Result<()> {
        fs::write(folder.join(format!("{name} direct.txt")), &self.direct.text)?;
        fs::write(folder.join(format!("{name} through.txt")), &self.through.text)
    }
}

impl Run {
    fn output(&self) -> Output {
        Output::parse(&self.text, self.end.as_ref().err().map(String::as_str))
    }
}
