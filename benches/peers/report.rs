//! The report, as Markdown.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::axes::Extent;
use crate::semantics::{TRIALS, Verdict};
use crate::stats::{Row, Sample, Summary, Table, short};
use crate::targets;

/// All that a run has found out.
#[derive(Debug)]
pub struct Report {
    pub tables: Vec<Table>,
    pub verdicts: Vec<Verdict>,
    /// Names and versions of what was measured.
    pub versions: Vec<(&'static str, String)>,
    /// Names of what could not be had, and why.
    pub skipped: Vec<(&'static str, String)>,
    /// Of a connection of the load generator.
    pub congestion_control: String,
    pub extent: Extent,
    pub took: Duration,
}

const WEAK: &str = "\
- Client, proxy and server share the cores, so a proxy that uses less CPU also leaves more to the other
  two: throughput and latency are those of the whole, CPU per unit is the proxy's own and the steadier.
- Loopback has no network card, no losses and 64 KiB segments; what a proxy saves in system calls and
  copies weighs more here than between hosts.
- The load generator and the server have one thread each. With more than a few cores they end before
  the proxies do; \"The load generator\" shows how far away that is.
- A closed loop: each connection asks again when it has its reply, so a stall delays the requests
  behind it and hides them from the percentiles. Compare percentiles between rows, not with a target
  of a service.
- CPU is read from `/proc/PID/stat`, in steps of 10 ms: about 1% of a window. What the kernel does in
  soft interrupts on behalf of a proxy is charged to whoever runs at that moment.
- Memory is what the processes have (`Pss_Anon`), not the kernel's socket buffers, which are the same
  for all and larger.
- The delaying relay adds the wake-ups of its own threads to its round trip, for all alike: see `direct`.
- tidegate runs with its default of threads, half the cores; the peers have two workers each.
- All candidates run all the time, idle but for the one that is measured; their timers disturb it.
- ERR, then close, is a race between the packet and the reset; a proxy that loses it seldom may pass.
";

impl Report {
    /// The whole text; `plot` is the file's name.
    pub fn markdown(&self, plot: &str) -> String {
        let mut text = "# tidegate and its peers\n\n\
             Written by `benches/peers/run`; not to be edited. What the figures mean, and where the\n\
             time goes, is in [NOTES.md](NOTES.md).\n\n"
            .to_owned();
        text += &format!("![the main figures]({plot})\n\n");
        text += &self.machine();
        text += &self.method();
        text += "## Targets\n\nBy the medians. Inside the spread: the least and the most of all rounds \
                 would say otherwise.\n\n\
                 | figure | bound | tidegate | tidegate static |\n| --- | --- | --- | --- |\n";
        text += &targets::rows(&self.tables);
        if !self.verdicts.is_empty() {
            text += &self.semantics_target();
        }
        text += "\n## Figures\n\nMedian (least to most). `× tidegate` and `× direct` are ratios of the \
             first figure's medians.\n";
        for table in &self.tables {
            text += &self.figures(table);
        }
        text += &self.semantics();
        text += &self.generator();
        text + "\n## What is weak about it\n\n" + WEAK
    }

    fn machine(&self) -> String {
        let file = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = file("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = file("/proc/sys/kernel/osrelease");
        let load = file("/proc/loadavg");
        let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
        let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let mut text = format!(
            "## Machine and versions\n\n- {model}, {cores} cores, Linux {}\n\
             - congestion control of all sockets: {}\n\
             - load average at the end: {}\n- tidegate's commit: {}\n",
            kernel.trim(),
            self.congestion_control,
            load.trim(),
            commit.unwrap_or_default().trim(),
        );
        for (name, version) in self.versions.iter().filter(|(_, version)| !version.is_empty()) {
            text += &format!("- {name}: {version}\n");
        }
        text + "\n"
    }

    fn method(&self) -> String {
        let Extent { rounds, warm_up, window, idle_connections, repetitions } = self.extent;
        format!(
            "## Method\n\n\
             {rounds} rounds of each axis, interleaved: every candidate once, then all again, each round \
             begun by\nanother. A load warms up for {} ms and counts for {} ms. All of it took {} s.\n\n\
             - Everything is on loopback in a network namespace of its own. Client (this program), \
             candidate and\n  server are processes of their own; per-connection logs are off unless \
             the row says otherwise.\n\
             - tidegate with `protocol = \"tcp\"` and its defaults; HAProxy with `nbthread 2`, `splice`: \
             with\n  `option splice-request`, `option splice-response` and tidegate's pipe size; nginx with \
             2 workers,\n  `64k`: with `proxy_buffer_size 64k` and `proxy_half_close on`; Envoy with \
             `--concurrency 2`;\n  socat with `fork,nodelay`. The configurations are in \
             [config.rs](config.rs).\n\
             - Ping-pong: 64 bytes each way. Replies: a request of 64 bytes. Bulk: from server to \
             client.\n\
             - Short connections: connect, 64 bytes each way, closed by the client.\n\
             - Connect to first byte: the server speaks first (80 bytes), behind a relay that waits one \
             round\n  trip before it dials and delays bytes by half of it each way; 2 at once.\n\
             - Memory: {idle_connections} connections to a candidate started for it, less what it has \
             with none, after\n  64 bytes each way and after 1 MiB on each, 500 at a time.\n\
             - Semantics: {repetitions} repetitions of each.\n\n",
            warm_up.as_millis(),
            window.as_millis(),
            self.took.as_secs(),
        )
    }

    fn figures(&self, table: &Table) -> String {
        let figures = table.axis.figures;
        let mut text = format!("\n### {}\n\n| |", table.axis.title);
        for figure in figures {
            text += &format!(" {} |", figure.name());
        }
        text += " × tidegate | × direct |\n| --- |";
        text += &" ---: |".repeat(figures.len() + 2);
        text += "\n";
        let headline = |who| table.median(who, figures[0]);
        for row in &table.rows {
            text += &format!("| {} |", row.candidate);
            for index in 0..figures.len() {
                text += &format!(" {} |", shown(row, |sample| sample.values.get(index).copied()));
            }
            for base in ["tidegate", "direct"] {
                let ratio = headline(row.candidate).zip(headline(base));
                let ratio = ratio.map(|(own, base)| format!("{:.2}", own / base));
                text += &format!(" {} |", ratio.unwrap_or_else(|| "-".to_owned()));
            }
            text += "\n";
        }
        for (name, why) in &self.skipped {
            text += &format!("| {name} | skipped ({why}) |{}\n", " |".repeat(figures.len() + 1));
        }
        for row in table.rows.iter().filter(|row| !row.failures.is_empty()) {
            let (name, count) = (row.candidate, row.failures.len());
            text += &format!("\n{name}: {count} rounds failed: {}\n", row.failures[0]);
        }
        text
    }

    fn semantics_target(&self) -> String {
        let ours = self.verdicts.iter().find(|verdict| verdict.candidate == "tidegate");
        let well = |verdict: &Verdict| {
            verdict.trials.iter().filter(|(well, _)| *well == self.extent.repetitions).count()
        };
        let well = ours.map_or(0, well);
        let word = if well == TRIALS.len() { "reached" } else { "**missed**" };
        let all = self.extent.repetitions;
        format!(
            "| Semantics: nothing lost | {all} of {all} each | {well} of {} trials: {word} | - |\n",
            TRIALS.len()
        )
    }

    fn semantics(&self) -> String {
        if self.verdicts.is_empty() {
            return String::new();
        }
        let mut text = "\n## Semantics\n\n".to_owned();
        for trial in TRIALS {
            text += &format!("- {}: {}.\n", trial.name, trial.what);
        }
        text += "\n| |";
        for trial in TRIALS {
            text += &format!(" {} |", trial.name);
        }
        text += &format!("\n| --- |{}\n", " ---: |".repeat(TRIALS.len()));
        let mut faults = String::new();
        for Verdict { candidate, trials } in &self.verdicts {
            text += &format!("| {candidate} |");
            for (trial, (well, wrong)) in TRIALS.iter().zip(trials) {
                text += &format!(" {well}/{} |", self.extent.repetitions);
                for (fault, count) in wrong {
                    faults += &format!("- {candidate}, {}: {count} × {fault}\n", trial.name);
                }
            }
            text += "\n";
        }
        for (name, why) in &self.skipped {
            text += &format!("| {name} | skipped ({why}) |{}\n", " |".repeat(TRIALS.len() - 1));
        }
        if !faults.is_empty() {
            text += &format!("\nWhat went wrong:\n\n{faults}");
        }
        text
    }

    /// That what is measured is the proxies.
    fn generator(&self) -> String {
        let mut text = "\n## The load generator\n\n\
             What it and the server do without a proxy, over what they do with the best of them; and the \
             cores\nthat each of the two keeps busy meanwhile, of one that it can use. Where the two for\ndirect make 1.0 together, the scheduler may have had both on one core, and direct could do more.\n\n\
             | | direct | best proxy | direct / best | client's cores, direct | server's | client's \
             cores, best | server's |\n| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n"
            .to_owned();
        for table in &self.tables {
            let figure = table.axis.figures[0];
            let Some(direct) = table.median("direct", figure) else { continue };
            let rates = table.rows.iter().filter(|row| row.candidate != "direct");
            let rates = rates.filter_map(|row| Some((table.median(row.candidate, figure)?, row)));
            let better = |(a, _): &(f64, &Row), (b, _): &(f64, &Row)| {
                if figure.is_cost() { b.total_cmp(a) } else { a.total_cmp(b) }
            };
            let Some((best, row)) = rates.max_by(better) else { continue };
            let ratio = direct / best;
            text += &format!(
                "| {}, {} | {} | {} {} | {ratio:.2} |",
                table.axis.title,
                figure.name(),
                short(direct),
                row.candidate,
                short(best),
            );
            for row in table.row("direct").into_iter().chain([row]) {
                let cores = |of: fn(&Sample) -> f64| row.summary(|sample| Some(of(sample)));
                for cores in [cores(|sample| sample.client), cores(|sample| sample.server)] {
                    text +=
                        &format!(" {} |", cores.map_or(String::new(), |cores| short(cores.median)));
                }
            }
            text += "\n";
        }
        text
    }
}

fn shown(row: &Row, of: impl Fn(&Sample) -> Option<f64>) -> String {
    match row.summary(of) {
        Some(Summary { median, min, max }) if median.is_finite() => {
            format!("{} ({} to {})", short(median), short(min), short(max))
        }
        Some(_) => "-".to_owned(),
        None => "failed".to_owned(),
    }
}
