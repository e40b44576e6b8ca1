//! Child processes that never outlive the test.
//!
//! A [`Process`] is killed, by its own pid, and reaped when dropped. When the test process dies
//! without unwinding, the kernel kills the child (`PR_SET_PDEATHSIG`, set by `setpriv`). That signal
//! follows the *thread* that forked, and a test's thread ends before what it shares with others
//! does, so one thread that never ends does all the forking.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, until_within};

/// A command that is killed by the kernel when the test process dies.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]).stdin(Stdio::null());
    command
}

/// The same, run by another user with no group of ours.
pub fn command_as(user: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let user = [&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"];
    command.args(user).args(["--pdeathsig", "KILL", "--", program]).stdin(Stdio::null());
    command
}

pub struct Process {
    pub child: Child,
}

impl Process {
    /// Starts what [`command`] built.
    pub fn spawn(command: Command) -> Self {
        let shown = format!("{command:?}");
        let (answer, child) = channel();
        spawner().send((command, answer)).unwrap();
        let child = child.recv().unwrap().unwrap_or_else(|error| panic!("{shown}: {error}"));
        Self { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        until_within(patience, "the process ends", || self.has_ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A child that was reaped has no pid any more; std knows and does nothing then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and returns what it said; one that hangs fails the test.
pub fn output(command: Command) -> Output {
    output_within(PATIENCE, command)
}

pub fn output_within(patience: Duration, mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(command);
    let stdout = collect(process.child.stdout.take().unwrap());
    let stderr = collect(process.child.stderr.take().unwrap());
    let status = process.wait(patience);
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Runs a command that must succeed and returns its standard output.
pub fn succeed(command: Command) -> String {
    let shown = format!("{command:?}");
    let output = output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Copies a program to where everybody can run it. A test's own copy could not be run for a moment
/// (ETXTBSY): a child that another test begins has it open until it becomes its program.
pub fn copy_program(from: &Path, to: &Path) {
    let mut install = command("install");
    install.args(["-m", "755"]).arg(from).arg(to);
    succeed(install);
}

/// Whether a program can be started at all.
pub fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

type Order = (Command, Sender<io::Result<Child>>);

fn spawner() -> &'static Sender<Order> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    })
}
