//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// How high the limit can be raised. `None`: any number.
pub fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Two descriptors a session: the soft limit of 1,024 that shells set is for select(2). Returns the
/// limit that holds; `None`: any number.
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            info!(from = limit.current, to = limit.maximum, "limit of open files");
            limit.maximum
        }
        Err(error) => {
            warn!(%error, "cannot raise the limit of open files");
            limit.current
        }
    }
}
