//! Where `tracing` events go: stderr, through a writer that never blocks a session.
//!
//! A line that finds the writer's queue full is dropped and counted, so a stderr that nobody reads
//! costs log lines, not latency.
//!
//! Lines that an outage multiplies go through [`Repeats`]: the first of a kind are written, the rest
//! are counted and told of in one line. Background loop: [`Repeats::keep_telling`], on the control
//! runtime.

mod repeats;

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::panic;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber, error};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, registry, reload};

use crate::config::{Log, LogFormat};

pub use repeats::{Kind, Labels, Repeats};

/// Lines that may wait for a slow stderr.
const QUEUED_LINES: usize = 8192;

/// Keeps the writer alive; dropping it tells of the last repeats and flushes what is queued, for a
/// second at most.
#[derive(Debug)]
pub struct Logs {
    control: Control,
    _writer: WorkerGuard,
}

/// What can be asked and changed while lines are written.
#[derive(Debug, Clone)]
pub struct Control {
    dropped: ErrorCounter,
    levels: reload::Handle<Targets, Registry>,
    repeats: Repeats,
}

impl Logs {
    /// A handle on them.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Control {
    /// Lines that were dropped because stderr did not keep up.
    pub fn dropped(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }

    /// From now on lines of this level and of more important ones are written.
    pub fn set_level(&self, level: LevelFilter) {
        // Fails only when nothing is written any more.
        let _ = self.levels.reload(targets(level));
    }

    /// The kinds of lines that come in storms.
    pub fn repeats(&self) -> &Repeats {
        &self.repeats
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.control.repeats.tell();
    }
}

/// An error with what caused it, on one line: how errors are shown at the process's edges.
#[derive(Debug)]
pub struct Chain<'e>(pub &'e dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// A number of bytes with a binary unit.
#[derive(Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        let mut value = self.0 as f64;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        match unit {
            0 => write!(f, "{} B", self.0),
            _ => write!(f, "{value:.1} {}", UNITS[unit]),
        }
    }
}

/// Sends the process's events to stderr. Called once, before the first thread.
///
/// Events of libraries are written from `warn` on; a panic becomes an event as well, and those at one
/// place in the code are a kind.
pub fn init(log: &Log) -> Logs {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .thread_name("tidegate-log")
        .finish(io::stderr());
    let dropped = writer.error_counter();
    let (filter, levels) = reload::Layer::new(targets(log.level));
    let layer: Box<dyn Layer<_> + Send + Sync> = match log.format {
        LogFormat::Text => text(writer),
        LogFormat::Json => lines::layer().json().flatten_event(true).with_writer(writer).boxed(),
    };
    registry().with(layer.with_filter(filter)).init();
    let repeats = Repeats::default();
    let kinds = repeats.clone();
    panic::set_hook(Box::new(move |panic| {
        let what = match panic.location() {
            Some(place) => format!("panicked at {place}"),
            None => "panicked".into(),
        };
        if kinds.kind(Level::ERROR, what, Labels::default()).admit() {
            error!("{panic}");
        }
    }));
    Logs { control: Control { dropped, levels, repeats }, _writer: guard }
}

fn targets(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        // One line for each datagram that is not an answer; the look-up tells what came of it.
        .with_target("hickory_net", level.min(LevelFilter::ERROR))
        .with_target("tidegate", level)
}

fn text<S>(writer: NonBlocking) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> registry::LookupSpan<'span>,
{
    let colours = io::stderr().is_terminal();
    lines::layer().with_target(false).with_ansi(colours).with_writer(writer).boxed()
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn bytes_have_units() {
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(Bytes(5 << 40).to_string(), "5.0 TiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777216.0 TiB");
    }
}
