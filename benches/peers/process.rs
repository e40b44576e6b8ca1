//! Child processes that never outlive the bench, and what the kernel tells of them.
//!
//! Dropping a [`Process`] kills it and all that descend from it, by pid. When the bench dies without
//! unwinding, `setpriv` has the kernel kill the children, and the pid namespace that `run` makes the
//! rest.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::distance::sleep;

/// Clock ticks per second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux in use.
const TICKS: f64 = 100.0;

/// A child and its descendants.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `arguments` with what it prints in the file `log`.
    pub fn start(arguments: &[String], log: &Path) -> io::Result<Self> {
        let log = File::create(log)?;
        Self::spawn(command(arguments).stdout(log.try_clone()?).stderr(log))
    }

    /// Starts what [`command`] made.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.spawn()? })
    }

    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its pid.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the child has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Pids of the child and its descendants.
    pub fn tree(&self) -> Vec<u32> {
        tree(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = self.tree();
        // Parents first, so that none of them starts another.
        for pid in tree.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
        // Thousands take a while, which would be the next candidate's.
        while tree.iter().any(|pid| lives(*pid)) {
            sleep(Duration::from_millis(5));
        }
    }
}

/// A command that the kernel kills when the bench dies.
pub fn command(arguments: &[String]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(arguments).stdin(Stdio::null());
    command
}

fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != "Z")
}

fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next) {
        tree.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    tree
}

struct Stat {
    state: String,
    parent: u32,
    /// User and system time, in seconds, with that of children that were waited for.
    cpu: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, also spaces and brackets.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok());
    Some(Stat {
        state: (*fields.first()?).to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        cpu: ticks.sum::<u64>() as f64 / TICKS,
    })
}

/// CPU seconds that `pids` have used, with children of theirs that were waited for.
pub fn cpu(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.cpu).sum()
}

/// Anonymous memory of `pids` in KiB: what is shared between several counts once.
pub fn anonymous(pids: &[u32]) -> f64 {
    let kib = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?;
        line.trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    pids.iter().filter_map(kib).sum()
}

/// Open descriptors of `pids`.
pub fn descriptors(pids: &[u32]) -> usize {
    let count = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).ok();
    pids.iter().filter_map(count).sum()
}
