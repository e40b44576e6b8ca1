//! Every client against every server, direct and through the bridge: nobody may tell the difference.
//!
//! `tests/compat/run` starts it. One cell of the matrix is a client program, a server and a mode of the
//! bridge. The program runs direct and through the bridge with the same arguments but the port, on
//! the same data, and what it prints is compared section by section.
//!
//! | file | holds |
//! | --- | --- |
//! | `servers`, `seed.sql` | the servers, and what is in them |
//! | `clients/` | the client programs, and how each is run |
//! | `toolchains` | what the programs are built with |
//! | `modes` | what stands between client and server |
//! | `relay` | a relay of our own, to tamper with what passes, or to hear it |
//! | `record` | what servers and clients say to each other, for other tests |
//! | `cells` | one cell, run both ways |
//! | `compare` | outputs, masks and verdicts; tested by `tests/compare.rs` |
//! | `report` | the table, and the end |

#![allow(clippy::disallowed_methods, reason = "it is a test: it may block")]

mod cells;
mod clients;
mod compare;
mod modes;
mod record;
mod relay;
mod report;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod toolchains;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

use cells::{Inputs, Pairing};
use clients::{CLIENTS, Client};
use modes::{MODES, Mode, PLANTED, PLANTED_SECTION};
use report::{Cell, Report};
use servers::{SERVERS, ServerKind};

/// Runs client programs direct and through the bridge; ends with 1 when a difference can be told.
#[derive(Debug, Parser)]
#[command(name = "tests/compat/run")]
struct Arguments {
    /// Only this server (may be repeated).
    #[arg(long = "server", value_name = "S")]
    servers: Vec<String>,
    /// Only this client (may be repeated).
    #[arg(long = "client", value_name = "C")]
    clients: Vec<String>,
    /// Only this mode of the bridge (may be repeated).
    #[arg(long = "mode", value_name = "M")]
    modes: Vec<String>,
    /// MariaDB, four clients and few modes, and smaller values.
    #[arg(long)]
    fast: bool,
    /// Bytes of the large value that goes each way [default: 64000000; fast: 17000000, and in the short
    /// form of the tests less where TLS ends at the bridge].
    #[arg(long, value_name = "BYTES")]
    value: Option<usize>,
    /// Keep what the programs print in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Write the transcripts of tests/compat/transcripts anew, and do nothing else.
    #[arg(long)]
    record: bool,
    /// Print the Debian packages that all this needs and that are missing, and do nothing else.
    #[arg(long)]
    missing: bool,
}

/// What is selected of each table.
struct Selection {
    servers: Vec<&'static ServerKind>,
    clients: Vec<&'static Client>,
    modes: Vec<&'static Mode>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.get(1).is_some_and(|first| first == clients::ARGUMENT) {
        return clients::mysql_async::main(&arguments[2..]);
    }
    let arguments = Arguments::parse();
    let selection = match Selection::of(&arguments) {
        Ok(selection) => selection,
        Err(unknown) => {
            eprintln!("tests/compat/run: {unknown}");
            return ExitCode::from(2);
        }
    };
    if arguments.missing {
        selection.missing_packages().iter().for_each(|package| println!("{package}"));
        return ExitCode::SUCCESS;
    }
    if arguments.record {
        return record(&selection);
    }
    let is_ci = env::var_os("CI").is_some_and(|ci| ci == "true");
    let report = run(&arguments, &selection);
    report.print();
    // Where nothing ran, that is a failure itself.
    let can_fail = selection.is_planted() || report.server_that_ran().is_none_or(notices_harm);
    let has_failed = report.has_failed(arguments.fast && is_ci) || !can_fail;
    report.print_sum(has_failed);
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(arguments: &Arguments, selection: &Selection) -> Report {
    // Neither fits into one packet. Of the short forms only what nothing is between but the relay has
    // such a value.
    let value = if arguments.fast { 17_000_000 } else { 64_000_000 };
    let large = Inputs::make(arguments.value.unwrap_or(value));
    let is_short = arguments.fast && arguments.value.is_none() && !support::full();
    let small = is_short.then(|| Inputs::make(1_000_000));
    if let Some(folder) = &arguments.keep {
        fs::create_dir_all(folder).expect("a folder for what the programs print");
    }
    let programs: Vec<_> = selection.clients.iter().map(|client| client.prepare()).collect();
    let mut report = Report::default();
    for kind in &selection.servers {
        let server = (kind.start)();
        for (client, program) in selection.clients.iter().zip(&programs) {
            let mut pairing = match (&server, program) {
                (Err(why), _) | (_, Err(why)) => Err(why),
                (Ok(server), Ok(program)) => Ok(Pairing::new(server, program, client.seals)),
            };
            for mode in &selection.modes {
                let cell = Cell { server: kind.name, client: client.name, mode: mode.name };
                match &mut pairing {
                    Err(why) => report.skipped(cell, why),
                    Ok(pairing) => {
                        println!("== {}", cell.name());
                        let inputs = small.as_ref().filter(|_| mode.ends_tls).unwrap_or(&large);
                        let runs = match pairing.run(mode, inputs) {
                            Ok(runs) => runs,
                            Err(why) => {
                                report.skipped(cell, &why);
                                continue;
                            }
                        };
                        if let Some(folder) = &arguments.keep {
                            runs.keep(folder, &cell.name()).expect("a file for what is printed");
                        }
                        let excuses = if mode.ends_tls { kind.tells_tls } else { &[] };
                        report.ran(cell, runs.verdicts(excuses));
                    }
                }
            }
        }
    }
    report
}

fn record(selection: &Selection) -> ExitCode {
    let mut all_done = true;
    for kind in &selection.servers {
        let done = (kind.start)().and_then(|server| record::record(kind.name, &server));
        match &done {
            Ok(()) => println!("recorded: {}", kind.name),
            Err(why) => println!("not recorded: {}: {why}", kind.name),
        }
        all_done &= done.is_ok();
    }
    if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether harmful relays in place of the bridge make this program fail and name the section.
fn notices_harm(server: &str) -> bool {
    let mut again = Command::new(env::current_exe().expect("this program has a path"));
    again.args(["--server", server, "--client", "mysql_async", "--value", "1000"]);
    for planted in PLANTED {
        again.args(["--mode", planted.name]);
    }
    let output = again.output().expect("this program can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut notices = output.status.code() == Some(1);
    for planted in PLANTED {
        notices &= printed.contains(&format!("{} differs: {PLANTED_SECTION}\n", planted.name));
    }
    if !notices {
        println!("planted differences are not found, or are no failure:\n{printed}");
    }
    notices
}

impl Selection {
    fn of(arguments: &Arguments) -> Result<Self, String> {
        let mut servers: Vec<_> = SERVERS.iter().collect();
        let mut clients: Vec<_> = CLIENTS.iter().collect();
        let mut modes: Vec<_> = MODES.iter().collect();
        if arguments.fast {
            servers.retain(|server| server.fast);
            clients.retain(|client| client.fast);
            modes.retain(|mode| mode.fast);
        }
        select("server", &mut servers, |server| server.name, &arguments.servers)?;
        select("client", &mut clients, |client| client.name, &arguments.clients)?;
        if !arguments.modes.is_empty() {
            modes.extend(PLANTED);
        }
        select("mode", &mut modes, |mode| mode.name, &arguments.modes)?;
        Ok(Self { servers, clients, modes })
    }

    fn is_planted(&self) -> bool {
        self.modes.iter().any(|mode| PLANTED.iter().any(|planted| planted.name == mode.name))
    }

    fn missing_packages(&self) -> Vec<&'static str> {
        let servers = self.servers.iter().flat_map(|server| server.needs);
        let toolchains = self.clients.iter().filter_map(|client| client.toolchain);
        let needs = servers.chain(toolchains.flat_map(|toolchain| toolchain.needs));
        let missing = needs.filter(|need| !need.is_met());
        let mut packages: Vec<_> = missing.map(|need| need.package).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }
}

/// Keeps of a table what was asked for, if anything was.
fn select<T>(
    what: &str,
    rows: &mut Vec<&T>,
    name: impl Fn(&T) -> &'static str,
    asked: &[String],
) -> Result<(), String> {
    let known: Vec<_> = rows.iter().map(|row| name(row)).collect();
    if let Some(unknown) = asked.iter().find(|asked| !known.contains(&asked.as_str())) {
        return Err(format!("no {what} {unknown}: there are {}", known.join(", ")));
    }
    rows.retain(|row| asked.is_empty() || asked.iter().any(|asked| asked == name(row)));
    Ok(())
}
