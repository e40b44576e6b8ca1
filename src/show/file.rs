//! Files that take the place of others as a whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Puts what `write` writes at `path`, so that at no moment half of it is there. If that fails, whatever
/// was there stays, and nothing beside it.
pub fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let (mut file, partial) = begin(path, mode)?;
    let written = write(&mut file).and_then(|()| fs::rename(&partial, path));
    written.inspect_err(|_| drop(fs::remove_file(&partial)))
}

/// What [`replace`] writes before it is renamed: an empty file beside `path`, with the permissions of
/// `mode`.
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
