//! Network namespaces, joined by veth pairs, in which packets can be lost without a trace.
//!
//! A namespace has no name: it lives as long as a sleeping process in it, so nothing is left behind
//! however the test ends. Addresses need not be unique, since no namespace sees another's.

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::process::{Process, command, installed, output, succeed};
use super::{skip, until};

pub struct Namespace {
    holder: Process,
}

impl Namespace {
    /// Nothing, with the reason printed, where the machine does not allow it.
    pub fn new() -> Option<Self> {
        for (program, package) in
            [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")]
        {
            if !installed(program) {
                skip(&format!("no `{program}` here (Debian package {package})"));
                return None;
            }
        }
        let mut unshare = command("unshare");
        unshare.args(["--net", "true"]);
        if !output(unshare).status.success() {
            skip("network namespaces need root");
            return None;
        }
        let mut sleep = command("unshare");
        sleep.args(["--net", "sleep", "infinity"]);
        let mut holder = Process::spawn(sleep);
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", holder.pid());
        until("a new network namespace", || {
            assert!(holder.has_ended().is_none(), "the namespace's holder ended");
            fs::read_link(&path).ok().filter(|theirs| *theirs != ours)
        });
        let namespace = Self { holder };
        namespace.ip(&["link", "set", "lo", "up"]);
        Some(namespace)
    }

    /// Joins two namespaces by a cable, an address at each end.
    pub fn join(&self, address: &str, other: &Self, other_address: &str) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let cable = format!("cable{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let there = other.holder.pid().to_string();
        self.ip(&["link", "add", &cable, "type", "veth", "peer", "name", &cable, "netns", &there]);
        for (end, address) in [(self, address), (other, other_address)] {
            end.ip(&["address", "add", &format!("{address}/24"), "dev", &cable]);
            end.ip(&["link", "set", &cable, "up"]);
        }
    }

    /// From now on every packet in or out is lost, and nobody is told.
    pub fn cut(&self) {
        self.rules(
            "chain in { type filter hook input priority 0; policy drop; iif lo accept; }
             chain out { type filter hook output priority 0; policy drop; oif lo accept; }",
        );
    }

    /// From now on packets that leave in here meet this rule.
    pub fn filter(&self, rule: &str) {
        self.rules(&format!(
            "chain out {{ type filter hook output priority 0; policy accept; {rule}; }}"
        ));
    }

    fn rules(&self, chains: &str) {
        let mut nft = self.command("nft");
        nft.arg(format!("table inet cut {{\n{chains}\n}}"));
        succeed(nft);
    }

    pub fn mend(&self) {
        let mut nft = self.command("nft");
        nft.arg("delete table inet cut");
        succeed(nft);
    }

    /// A command that will run in here.
    pub fn command(&self, program: &str) -> Command {
        let mut inside = command("nsenter");
        inside.args([&format!("--net={}", self.path()), "--", program]);
        inside
    }

    /// Does something in here; a socket made in here stays in here.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let door = fs::File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let visitor = scope.spawn(move || {
                setns(&door, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            visitor.join().unwrap()
        })
    }

    /// Connects from in here.
    pub fn connect(&self, to: std::net::SocketAddr) -> TcpStream {
        self.enter(|| super::tcp::connect(to))
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.pid())
    }

    fn ip(&self, args: &[&str]) {
        let mut ip = self.command("ip");
        ip.args(args);
        succeed(ip);
    }
}
