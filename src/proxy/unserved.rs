//! Close records of connections that could not be served: an outage brings thousands a second, all
//! alike, so of each kind the first are written and the rest are counted.

use std::sync::{Arc, PoisonError, RwLock};

use tracing::Level;

use crate::log::{Kind, Labels, Repeats};
use crate::relay::Side;

/// The kinds of such records of one listener: one for each side and reason there has been.
#[derive(Debug)]
pub struct Unserved {
    listener: String,
    repeats: Repeats,
    kinds: RwLock<Vec<(Side, &'static str, Arc<Kind>)>>,
}

impl Unserved {
    /// Those of the listener of that name.
    pub fn new(listener: &str, repeats: &Repeats) -> Self {
        Self { listener: listener.to_owned(), repeats: repeats.clone(), kinds: RwLock::default() }
    }

    /// Counts a record; whether it is to be written.
    pub(super) fn admit(&self, side: Side, reason: &'static str) -> bool {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let known = kinds.iter().find(|known| (known.0, known.1) == (side, reason));
        if let Some((.., kind)) = known {
            return kind.admit();
        }
        drop(kinds);
        let labels = Labels {
            listener: Some(self.listener.clone()),
            side: Some(side.as_str()),
            reason: Some(reason),
            ..Labels::default()
        };
        let kind = self.repeats.kind(Level::INFO, "closed", labels);
        // Another thread may have done the same meanwhile: it has added this very kind.
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.push((side, reason, kind.clone()));
        kind.admit()
    }
}
