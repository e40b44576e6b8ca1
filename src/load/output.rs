//! Where a report goes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::show::file::{begin, replace};

/// Of a file that was not there before, less what the umask takes.
const NEW: u32 = 0o666;

/// A file that will have a report. Until then, whatever is there stays: the run may come to nothing.
#[derive(Debug)]
pub struct Output {
    flag: &'static str,
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// A device, a pipe, or a file that this process writes to otherwise: there is no other.
    Open(File),
    /// A file that a new one takes the place of; no link.
    File(PathBuf),
}

/// It cannot be written.
#[derive(Debug, Error)]
#[error("{flag}: cannot write {}", path.display())]
pub struct OutputError {
    flag: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl OutputError {
    /// What may help.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.source.kind() {
            io::ErrorKind::NotFound => "is its folder there?",
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "the report is written beside it, as FILE.partial, and renamed then: may files be \
                 made in its folder?"
            }
            _ => return None,
        })
    }
}

impl Output {
    /// Looks whether it can be written, before there is something to write.
    pub fn new(flag: &'static str, path: &Path) -> Result<Self, OutputError> {
        match Place::of(path) {
            Ok(place) => Ok(Self { flag, path: path.into(), place }),
            Err(source) => Err(OutputError { flag, path: path.into(), source }),
        }
    }

    /// Writes the whole text, or leaves what is there.
    pub fn write(self, text: io::Result<String>) -> Result<(), OutputError> {
        let Self { flag, path, place } = self;
        let written = text.and_then(|text| match place {
            Place::Open(mut file) => file.write_all(text.as_bytes()),
            Place::File(path) => rewrite(&path, &text),
        });
        written.map_err(|source| OutputError { flag, path, source })
    }
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let path = match fs::metadata(path) {
            Ok(there) => {
                // Looked at before it is open here, too.
                let is_the_only_one = !there.is_file() || is_open(&there);
                // Behind what is said there until then.
                let file = OpenOptions::new().append(true).open(path)?;
                if is_the_only_one {
                    return Ok(Self::Open(file));
                }
                fs::canonicalize(path)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.into(),
            Err(error) => return Err(error),
        };
        let (_, partial) = begin(&path, NEW)?;
        fs::remove_file(partial)?;
        Ok(Self::File(path))
    }
}

/// Whether it is a file that this process has open already, as `/dev/stdout` is.
fn is_open(there: &Metadata) -> bool {
    let of = |file: &Metadata| (file.dev(), file.ino());
    let mut open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.any(|open| fs::metadata(open.path()).is_ok_and(|open| of(&open) == of(there)))
}

/// With the permissions that it has.
fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    replace(path, NEW, |file| {
        file.write_all(text.as_bytes())?;
        match fs::metadata(path) {
            Ok(there) => file.set_permissions(there.permissions()),
            Err(_) => Ok(()),
        }
    })
}
