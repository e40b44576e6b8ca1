//! Files that take the place of others as a whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What is written before it is renamed to `path`, so that at no moment half of it is there: an empty
/// file beside it, with the permissions of `mode`.
pub fn begin(path: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
    Ok((file, partial.into()))
}
