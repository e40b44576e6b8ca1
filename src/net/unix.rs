//! The files of Unix sockets: who may connect, and that one process serves each.
//!
//! - A file has its mode and its owner before its socket listens, and until then nobody can connect.
//!   It is not even seen with a wider mode: the kernel takes the mode of a socket's file from the
//!   socket (unix_bind_bsd of net/unix/af_unix.c), less the umask, which is the whole process's and
//!   is left alone.
//! - Whoever makes or removes a file holds the lock on `PATH.lock` meanwhile. So of two bridges that
//!   start at once one finds the other serving, and none removes what the other has just made. The
//!   lock file is there for that moment only: held for longer it would keep a successor from starting
//!   while its predecessor drains.
//! - A file at which nobody accepts is what a dead process has left, and goes. Everything else stays:
//!   a socket that is served, one that cannot be asked, what is no socket.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    Access, AtFlags, CWD, FlockOperation, Mode, OFlags, accessat, fchmod, flock, fstat, open,
};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Type};
use thiserror::Error;

use super::listener::{BACKLOG, Socket};
use crate::config::{Owner, UnixSocket};

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";
/// Longer than anybody takes to make or remove a file.
const FOR_THE_LOCK: Duration = Duration::from_secs(2);
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// Why there cannot be a listening socket at a path.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody accepts connections there.
    #[error("another process serves it, or another listener of this one")]
    Served,
    /// There is something that was never a socket.
    #[error("what is there is {0}, and no socket")]
    NotASocket(&'static str),
    /// There is a socket that cannot be asked.
    #[error("cannot find out whether somebody serves it")]
    Unclear(#[source] io::Error),
    /// The folder does not exist, or takes no files of ours.
    #[error("its folder {} cannot be used", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The lock cannot be had.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What a dead process has left cannot be removed.
    #[error("cannot remove the socket that a dead process has left")]
    Stale(#[source] io::Error),
    /// The socket cannot be made.
    #[error("cannot make the socket")]
    Make(#[source] io::Error),
    /// The file cannot have that mode.
    #[error("cannot set unix_mode `{mode}`")]
    Mode {
        /// The setting.
        mode: crate::config::Mode,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file cannot be that owner's.
    #[error("cannot set unix_owner `{owner}`")]
    Owner {
        /// The setting.
        owner: Owner,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no such user or group.
    #[error("unix_owner is `{owner}`, and {file} has no `{name}`")]
    NoSuchOwner {
        /// The setting.
        owner: Owner,
        /// The part of it that is not known.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
}

impl BindError {
    /// What may be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Served => Some("end it, or choose another path"),
            Self::NotASocket(_) => Some("choose another path, or move it away; it is not removed"),
            Self::Unclear(_) => Some("if nobody serves it, remove it"),
            Self::Folder { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some("make it first, for the bridge's user (systemd: RuntimeDirectory=)")
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    Some("mount a folder there that can be written, such as a tmpfs")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("the bridge's user must be allowed to write to it")
                }
                _ => None,
            },
            Self::Owner { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("another user takes root or CAP_CHOWN; a group that the bridge is in does not")
            }
            Self::NoSuchOwner { .. } => {
                Some("only these files are asked; users from elsewhere go by their number")
            }
            Self::Lock { source, .. } if source.kind() == io::ErrorKind::WouldBlock => {
                Some("another process holds it, and should have done so for a moment only")
            }
            Self::Lock { .. } | Self::Stale(_) | Self::Make(_) => None,
            Self::Mode { .. } | Self::Owner { .. } => None,
        }
    }
}

/// The file of a socket that listens. Removed when dropped, unless it is somebody else's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Keeps the number of the file from being used again for another one.
    file: OwnedFd,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn is_there(&self) -> bool {
        let (Ok(there), Ok(own)) = (fs::symlink_metadata(&self.path), fstat(&self.file)) else {
            return false;
        };
        (there.dev(), there.ino()) == (own.st_dev, own.st_ino)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody who has the lock now finds out by himself that nobody serves the file.
        let Ok(_lock) = Lock::take(&self.path) else { return };
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens `count` handles on a socket that listens at `path`.
pub fn bind(path: &Path, count: usize, settings: &UnixSocket) -> Result<Vec<Socket>, BindError> {
    preflight(path, settings)?;
    let lock =
        Lock::wait_for(path).map_err(|source| BindError::Lock { path: lock_path(path), source })?;
    if is_a_socket(path)? {
        if is_served(path).map_err(BindError::Unclear)? {
            return Err(BindError::Served);
        }
        fs::remove_file(path).map_err(BindError::Stale)?;
    }
    let (socket, file) = make(path, settings)?;
    // It listens: from now on whoever looks finds it served.
    drop(lock);
    let file = Arc::new(file);
    let mut sockets = Vec::new();
    for _ in 1..count {
        let another = socket.try_clone().map_err(BindError::Make)?;
        sockets.push(Socket::Unix(another, file.clone()));
    }
    sockets.push(Socket::Unix(socket, file));
    Ok(sockets)
}

/// Looks at everything that can be seen without making anything.
pub fn preflight(path: &Path, settings: &UnixSocket) -> Result<(), BindError> {
    numbers(&settings.owner)?;
    let folder = path.parent().unwrap_or(path);
    let wrong = |source| BindError::Folder { folder: folder.to_owned(), source };
    if !fs::metadata(folder).map_err(wrong)?.is_dir() {
        return Err(wrong(io::ErrorKind::NotADirectory.into()));
    }
    match accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        // A kernel or a sandbox without faccessat2 does not tell; the bind will.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => {}
        Err(error) => return Err(wrong(error.into())),
    }
    is_a_socket(path).map(drop)
}

/// Whether [`bind`] could have a path now.
pub fn try_bind(path: &Path, settings: &UnixSocket) -> Result<(), BindError> {
    preflight(path, settings)?;
    match is_a_socket(path)? && is_served(path).map_err(BindError::Unclear)? {
        true => Err(BindError::Served),
        false => Ok(()),
    }
}

/// Binds, dresses and opens a socket, in this order. Under the lock: what fails is removed here.
fn make(path: &Path, settings: &UnixSocket) -> Result<(UnixListener, SocketFile), BindError> {
    let UnixSocket { mode, owner } = settings;
    let (user, group) = numbers(owner)?;
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(BindError::Make)?;
    let prepare = || {
        socket.set_nonblocking(true)?;
        fchmod(&socket, Mode::from_raw_mode(mode.0))?;
        socket.bind(&SockAddr::unix(path)?)
    };
    prepare().map_err(BindError::Make)?;
    let dress = || {
        // The mode first: once the file is another user's, he may put something else in its place.
        fs::set_permissions(path, fs::Permissions::from_mode(mode.0))
            .map_err(|source| BindError::Mode { mode: *mode, source })?;
        // Not called in vain: a service manager's system call filter may end the process for it.
        if user.is_some() || group.is_some() {
            lchown(path, user, group)
                .map_err(|source| BindError::Owner { owner: owner.clone(), source })?;
        }
        let file = SocketFile::of(path).map_err(BindError::Make)?;
        socket.listen(BACKLOG).map_err(BindError::Make)?;
        Ok(file)
    };
    match dress() {
        Ok(file) => Ok((socket.into(), file)),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Whether there is a socket; what is there and is none is an error.
fn is_a_socket(path: &Path) -> Result<bool, BindError> {
    let kind = match fs::symlink_metadata(path).map(|found| found.file_type()) {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(BindError::Unclear(error)),
    };
    if kind.is_socket() {
        return Ok(true);
    }
    Err(BindError::NotASocket(match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_file() => "a file",
        () => "a device or a pipe",
    }))
}

/// Whether somebody accepts connections there.
fn is_served(path: &Path) -> io::Result<bool> {
    let probe = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            // Its queue is full.
            io::ErrorKind::WouldBlock => Ok(true),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

/// The numbers of an owner; `None` stays as it is.
fn numbers(owner: &Owner) -> Result<(Option<u32>, Option<u32>), BindError> {
    let number = |name: &Option<String>, file: &'static str| match name {
        None => Ok(None),
        Some(name) => match number_of(name, file) {
            // To chown(2) the last number means "as it is".
            None | Some(u32::MAX) => {
                Err(BindError::NoSuchOwner { owner: owner.clone(), name: name.clone(), file })
            }
            found => Ok(found),
        },
    };
    Ok((number(&owner.user, USERS)?, number(&owner.group, GROUPS)?))
}

/// A number as it is, or that of a name in a file whose lines read `name:…:number:…`.
///
/// Read here and not by libc's getpwnam, which a static binary cannot count on: it loads what
/// /etc/nsswitch.conf names at run time.
fn number_of(name: &str, file: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let text = String::from_utf8_lossy(&fs::read(file).ok()?).into_owned();
    let mut lines = text.lines().map(|line| line.split(':'));
    let mut fields =
        lines.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    fields.nth(1)?.parse().ok()
}

/// The right to make or remove the file at a path.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Nobody needs it for long, so that it is held does not yet mean that somebody serves the path.
    #[expect(clippy::disallowed_methods, reason = "this is the start, or the control thread")]
    fn wait_for(path: &Path) -> io::Result<Self> {
        let deadline = Instant::now() + FOR_THE_LOCK;
        loop {
            match Self::take(path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() > deadline {
                        return Err(error);
                    }
                    thread::sleep(BETWEEN_TRIES);
                }
                result => return result,
            }
        }
    }

    fn take(path: &Path) -> io::Result<Self> {
        let path = lock_path(path);
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            match fs::symlink_metadata(&path) {
                Ok(there) if same(&there, &file.metadata()?) => {
                    return Ok(Self { path, _file: file });
                }
                // Whoever had it before has removed it.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}
