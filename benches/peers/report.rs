//! The report, as Markdown.

use std::fs;
use std::time::Duration;

use crate::agreement::Agreement;
use crate::authority::NAME;
use crate::axes::{Extent, FOR_A_POOL, MOST_SECURE};
use crate::candidates::Candidate;
use crate::semantics::{SEMANTICS, TRIALS, Verdict};
use crate::stats::{Row, Sample, Table, short};
use crate::summary::Summary;
use crate::targets;

/// All that a run has found out.
#[derive(Debug)]
pub struct Report {
    pub tables: Vec<Table>,
    /// Of those that have rows with TLS.
    pub agreements: Vec<Agreement>,
    pub verdicts: Vec<Verdict>,
    /// Names and versions of what was measured.
    pub versions: Vec<(&'static str, String)>,
    /// Names of what could not be had, and why.
    pub skipped: Vec<(&'static Candidate, String)>,
    /// Of a connection of the load generator.
    pub congestion_control: String,
    /// What tidegate and the bench were built of.
    pub commit: String,
    /// Of the order of turns.
    pub seed: u64,
    pub extent: Extent,
    pub took: Duration,
    /// What was written by hand about the figures, as Markdown.
    pub notes: String,
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
- tidegate runs with its default of threads, half the cores; the peers have two workers each. Rows with
  the other number are on the axes that keep a thread busy.
- Bulk that nobody copies at the ends is of pages that stay in the cache: it flatters proxies that copy, and
  splicing is all that the others do. \"Written and read\" is what programs do, with ends that are as busy
  as the proxies.
- A candidate meets its own connections in TIME_WAIT, of earlier rounds; the kernel uses their ports anew
  on loopback, after a search.
- All candidates run all the time, idle but for the one that is measured; their timers disturb it.
- ERR, then close, is a race between the packet and the reset; a proxy that loses it seldom may pass.
";

impl Report {
    /// The whole text; `plot` is the file's name.
    pub fn markdown(&self, plot: &str) -> String {
        let mut text = "# tidegate and its peers\n\n\
             Written by `benches/peers/run`; not to be edited. What the figures mean, where the time goes\n\
             and what else was tried is under [Notes](#notes-on-the-figures), at the end.\n\n"
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
        text += &self.agreed();
        text += &self.semantics();
        text += &self.generator();
        text += "\n## What is weak about it\n\n";
        text + WEAK + "\n" + &self.notes()
    }

    fn machine(&self) -> String {
        let file = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = file("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = file("/proc/sys/kernel/osrelease");
        let load = file("/proc/loadavg");
        let mut text = format!(
            "## Machine and versions\n\n- {model}, {cores} cores, Linux {}\n\
             - congestion control of all sockets: {}\n\
             - load average at the end: {}\n- tidegate's commit, before it was built: {}\n",
            kernel.trim(),
            self.congestion_control,
            load.trim(),
            self.commit,
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
             in an\norder of its own (`--seed {}`). A load warms up for {} ms and counts for {} ms. All \
             of it took {} s.\n\n\
             - Everything is on loopback in a network namespace of its own. Client (this program), \
             candidate and\n  server are processes of their own, and each candidate has ports of the \
             server to itself;\n  per-connection logs are off unless the row says otherwise.\n\
             - tidegate with its defaults and `protocol = \"tcp\"`; `mysql`: with that protocol, which is \
             the\n  default; `no splice`: with `--splice off`; HAProxy with `nbthread 2` or 1, `splice`: \
             with\n  `option splice-request`, `option splice-response` and tidegate's pipe size; nginx with \
             2 workers\n  or 1, `64k`: with `proxy_buffer_size 64k` and `proxy_half_close on`; Envoy with \
             `--concurrency 2`;\n  socat with `fork,nodelay`. The configurations are in \
             [config.rs](config.rs). Who differs from its\n  kin only where bytes are moved, where the \
             server speaks first or where threads are busy has\n  rows there only.\n\
             - Ping-pong: 64 bytes each way. Replies: a request of 64 bytes.\n\
             - Bulk: from server to client. The server hands out the same pages again and again (`tee`, \
             `splice`)\n  and the client has the kernel count and drop what came (`MSG_TRUNC`), so that the \
             two cost little;\n  \"written and read\": with `write` and `read`, which copy each byte, as \
             servers and clients do.\n\
             - Short connections: connect, 64 bytes each way, closed by the client.\n\
             - Log-ins: connect, a greeting of 78 bytes, 64 bytes back, an OK packet, closed by the \
             client.\n\
             - Connect to first byte: the same as far as the greeting, behind a relay that waits one \
             round trip\n  before it dials and delays bytes by half of it each way; 2 at once. The log-in \
             follows, uncounted.\n  Both warm up for {} s.\n\
             - Memory: {idle_connections} connections to a candidate started for it, less what it has \
             with none, after\n  64 bytes each way and after 1 MiB on each, 500 at a time; with TLS \
             {} connections at most.\n\
             - TLS on one leg: the bench's server has TLS, or its client. Peers begin with it at once, \
             tidegate in the\n  handshake of MySQL, outside of what is counted. To the upstream all look \
             who has signed the\n  certificate and that it is `{NAME}`'s, and resume sessions; see \
             [TLS](#tls) for what was agreed on. stunnel\n  in client and in server mode. Bulk: the \
             bench's end writes 64 KiB at a time into TLS; the one in clear counts\n  and drops.\n\
             - Semantics: {repetitions} repetitions of each.\n\n",
            self.seed,
            warm_up.as_millis(),
            window.as_millis(),
            self.took.as_secs(),
            FOR_A_POOL.as_secs(),
            idle_connections.min(MOST_SECURE),
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
        for (name, why) in self.skipped(table.axis.key) {
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

    fn agreed(&self) -> String {
        if self.agreements.is_empty() {
            return String::new();
        }
        let mut text =
            "\n## TLS\n\nWhat the bench's end of each leg has agreed on with each candidate, \
             in connections one after the other.\n\n\
             | | to the upstream | from the client |\n| --- | --- | --- |\n"
                .to_owned();
        for Agreement { candidate, to_upstream, from_client } in &self.agreements {
            text += &format!("| {candidate} |");
            for agreed in [to_upstream, from_client] {
                let words: Vec<_> = match agreed {
                    Ok(counts) => {
                        counts.iter().map(|(words, count)| format!("{count} × {words}")).collect()
                    }
                    Err(error) => vec![format!("failed: {error}")],
                };
                text += &format!(" {} |", words.join("; "));
            }
            text += "\n";
        }
        text
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
        for (name, why) in self.skipped(SEMANTICS) {
            text += &format!("| {name} | skipped ({why}) |{}\n", " |".repeat(TRIALS.len() - 1));
        }
        if !faults.is_empty() {
            text += &format!("\nWhat went wrong:\n\n{faults}");
        }
        text
    }

    /// Names of those that would have a row on that axis, and why they have none.
    fn skipped(&self, axis: &str) -> impl Iterator<Item = (&str, &str)> {
        let here = move |(one, _): &&(&Candidate, String)| one.says_something_of(axis);
        self.skipped.iter().filter(here).map(|(one, why)| (one.name, why.as_str()))
    }

    /// [`Report::notes`] as a part of this text.
    fn notes(&self) -> String {
        let mut text = String::new();
        for line in self.notes.lines() {
            // One level below the title of the whole.
            let deeper = if line.starts_with('#') { "#" } else { "" };
            text += &format!("{deeper}{line}\n");
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
