//! A descriptor that each thread keeps back, so that who connects when there is no other is told.

use std::cell::Cell;
use std::fs::File;
use std::io;

thread_local! {
    static SPARE: Cell<Option<File>> = const { Cell::new(None) };
}

/// Opens it unless it is open, as far as there is a descriptor.
pub(super) fn keep() {
    let spare = SPARE.take().or_else(|| File::open("/dev/null").ok());
    SPARE.set(spare);
}

/// Closes it; whether it was open. Another thread may be faster to use the descriptor.
pub(super) fn give_up() -> bool {
    SPARE.take().is_some()
}

/// Whether this is the error of a call that found no descriptor left.
pub(super) fn is_needed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
