//! Lines that come in storms: of each kind the first are written, the rest are counted and told of.

use std::borrow::Cow;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{Level, event};

/// Lines of a kind that are written in a [`WINDOW`]: enough for a pool of clients that loses its
/// gateway to be told of one by one.
const WRITTEN: u64 = 50;
/// How often it is told what was left out, and counting begins anew.
const WINDOW: Duration = Duration::from_secs(5);

/// The kinds of lines that come in storms; clones share them.
///
/// A line that is left out costs an atomic addition, and nothing is formatted for it.
#[derive(Debug, Clone)]
pub struct Repeats(Arc<Mutex<Kinds>>);

#[derive(Debug)]
struct Kinds {
    /// Never forgotten: there are only so many listeners, upstreams, reasons and places that panic.
    all: Vec<Arc<Kind>>,
    told: Instant,
}

/// Lines with the same text and the same labels.
#[derive(Debug)]
pub struct Kind {
    level: Level,
    what: Cow<'static, str>,
    labels: Labels,
    /// Lines since it was told last what was left out.
    seen: AtomicU64,
}

/// What all lines of a kind say; `None` is what they do not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// The listener's name.
    pub listener: Option<String>,
    /// The upstream's name.
    pub upstream: Option<String>,
    /// Who ended a connection.
    pub side: Option<&'static str>,
    /// Why.
    pub reason: Option<&'static str>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Kinds { all: Vec::new(), told: Instant::now() })))
    }
}

impl Repeats {
    /// The kind of the lines with this text and these labels; whoever asks for the same gets the same.
    pub fn kind(
        &self,
        level: Level,
        what: impl Into<Cow<'static, str>>,
        labels: Labels,
    ) -> Arc<Kind> {
        let kind = Kind { level, what: what.into(), labels, seen: AtomicU64::new(0) };
        let mut kinds = self.kinds();
        if let Some(known) = kinds.all.iter().find(|known| known.is_like(&kind)) {
            return known.clone();
        }
        let kind = Arc::new(kind);
        kinds.all.push(kind.clone());
        kind
    }

    /// Tells every few seconds what was left out, for ever.
    pub async fn keep_telling(&self) {
        loop {
            sleep(WINDOW).await;
            self.tell();
        }
    }

    /// Tells what was left out since the last time, a line for each kind of which something was.
    pub fn tell(&self) {
        let (all, within) = {
            let mut kinds = self.kinds();
            let now = Instant::now();
            (kinds.all.clone(), now - mem::replace(&mut kinds.told, now))
        };
        for kind in all {
            let left_out = kind.seen.swap(0, Ordering::Relaxed).saturating_sub(WRITTEN);
            if left_out > 0 {
                kind.tell(left_out, within);
            }
        }
    }

    fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
    /// Counts a line; whether it is to be written.
    pub fn admit(&self) -> bool {
        // The order of this and of the swap above is all that matters: each line is counted in one
        // window, as one of the first or as one of the rest.
        self.seen.fetch_add(1, Ordering::Relaxed) < WRITTEN
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.level, &self.what, &self.labels) == (other.level, &other.what, &other.labels)
    }

    fn tell(&self, repeated: u64, within: Duration) {
        // An event's level is part of its place in the code.
        macro_rules! tell {
            ($level:expr) => {
                event!(
                    $level,
                    what = &*self.what,
                    listener = self.labels.listener.as_deref(),
                    upstream = self.labels.upstream.as_deref(),
                    side = self.labels.side,
                    reason = self.labels.reason,
                    repeated,
                    within_ms = within.as_millis() as u64,
                    "repeats left out"
                )
            };
        }
        match self.level {
            Level::ERROR => tell!(Level::ERROR),
            Level::WARN => tell!(Level::WARN),
            _ => tell!(Level::INFO),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::thread;

    use serde_json::{Value, json};
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{fmt as lines, registry};

    use super::*;

    #[test]
    fn the_first_of_a_kind_are_written_and_the_rest_are_told_of_once() {
        let repeats = Repeats::default();
        let admitted = (0..WRITTEN + 70).filter(|_| closed(&repeats, "unreachable").admit());
        assert_eq!(admitted.count() as u64, WRITTEN);
        assert!(closed(&repeats, "local").admit(), "another kind is left out with it");

        let told = heard(|| {
            repeats.tell();
            repeats.tell();
        });
        let [told] = &told[..] else { panic!("{told:?}") };
        assert_eq!(told["message"], "repeats left out");
        assert_eq!((&told["level"], &told["what"]), (&json!("INFO"), &json!("closed")));
        assert_eq!((&told["listener"], &told["side"]), (&json!("app"), &json!("upstream")));
        assert_eq!((&told["reason"], &told["repeated"]), (&json!("unreachable"), &json!(70)));
        assert!(told["within_ms"].is_u64() && told.get("upstream").is_none(), "{told}");

        assert!(closed(&repeats, "unreachable").admit(), "it is left out for ever");
        assert!(heard(|| repeats.tell()).is_empty());
    }

    #[test]
    fn lines_of_several_threads_are_each_written_or_told_of() {
        const EACH: u64 = 20_000;
        let repeats = Repeats::default();
        let storm = || {
            let kind = closed(&repeats, "unreachable");
            (0..EACH).filter(|_| kind.admit()).count() as u64
        };
        let mut written = 0;
        let told = heard(|| {
            thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(storm)).collect();
                while !threads.iter().all(|thread| thread.is_finished()) {
                    repeats.tell();
                }
                written = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            });
            repeats.tell();
        });
        let left_out: u64 = told.iter().map(|line| line["repeated"].as_u64().unwrap()).sum();
        assert_eq!(written + left_out, 4 * EACH);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_out_is_told_although_no_more_comes() {
        let repeats = Repeats::default();
        while closed(&repeats, "unreachable").admit() {}
        let telling = tokio::time::timeout(WINDOW * 3 / 2, repeats.keep_telling());
        assert!(telling.await.is_err());
        assert!(heard(|| repeats.tell()).is_empty(), "nobody has told it");
    }

    fn closed(repeats: &Repeats, reason: &'static str) -> Arc<Kind> {
        let labels = Labels {
            listener: Some("app".into()),
            side: Some("upstream"),
            reason: Some(reason),
            ..Labels::default()
        };
        repeats.kind(Level::INFO, "closed", labels)
    }

    /// The events of this thread meanwhile.
    fn heard(meanwhile: impl FnOnce()) -> Vec<Value> {
        let file: Arc<File> = tempfile::tempfile().unwrap().into();
        let layer = lines::layer().json().flatten_event(true).with_writer(file.clone());
        with_default(registry().with(layer), meanwhile);
        let mut text = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
