//! Pipes through which bytes go from one socket to the other without being copied.
//!
//! Each data thread keeps a few empty ones for its sessions. The kernel limits what the pipes of a
//! user who is not root may hold together (`/proc/sys/fs/pipe-user-pages-soft`, 64 MiB by default;
//! root is not limited): beyond it a new pipe gets 8 KiB without a word, and `F_SETPIPE_SZ` fails
//! with `EPERM`. So their number is limited here, and a pipe too small to be of use is refused.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

/// Capacity that is asked for: 128 slots of a page.
const CAPACITY: usize = 512 * 1024;
/// A smaller pipe moves less than a copy does.
const LEAST_CAPACITY: usize = 64 * 1024;
/// Pipes of the process, a lent one included: half of what a user may have of that size.
pub const MOST: usize = 64;
/// Empty pipes that a thread keeps.
const KEPT: usize = 16;
/// Time after a refusal in which the kernel is not asked again: each try costs five calls.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The pipes of the process. The kernel's limit is not a thread's either.
static OPEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { empty: Vec::new(), refused: None }) };
}

struct Pool {
    empty: Vec<Pipe>,
    refused: Option<Instant>,
}

/// A pipe and what is in it. Dropped, it is closed, with what is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes in it.
    filled: usize,
}

impl Pipe {
    /// An empty pipe, if there is one to be had.
    pub fn take() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if let Some(pipe) = pool.empty.pop() {
                return Some(pipe);
            }
            if pool.refused.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
                return None;
            }
            let one_more = |open| (open < MOST).then_some(open + 1);
            OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
            let pipe = open();
            if pipe.is_none() {
                pool.refused = Some(Instant::now());
            }
            pipe
        })
    }

    /// Keeps it for the next session of this thread.
    ///
    /// Not one with bytes in it, which are another session's. And not one more than half of
    /// [`MOST`], or a few threads could keep all of them from the others.
    pub fn give_back(self) {
        if !self.is_empty() || OPEN.load(Ordering::Relaxed) > MOST / 2 {
            return;
        }
        POOL.with_borrow_mut(|pool| {
            if pool.empty.len() < KEPT {
                pool.empty.push(self);
            }
        });
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves what a socket has received into the pipe, which must be empty: so what would block is
    /// the socket, never the pipe. It stays empty when the socket has nothing to give.
    pub fn fill(&mut self, from: &impl AsFd) -> io::Result<()> {
        debug_assert!(self.is_empty());
        match splice(from, None, &self.writer, None, CAPACITY, SpliceFlags::NONBLOCK) {
            Ok(filled) => self.filled = filled,
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Moves bytes out of the pipe, which must not be empty: so what would block is the socket,
    /// never the pipe.
    pub fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        debug_assert!(!self.is_empty());
        // Not more than is in it: the kernel takes that for a sign that more will come, and may
        // hold the last segment back.
        let moved = splice(&self.reader, None, to, None, self.filled, SpliceFlags::NONBLOCK)?;
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.filled -= moved;
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an error is not the socket's: a sandbox does not know splicing, or does not allow it.
/// Then this thread leaves it for a while.
pub(super) fn refused(error: &io::Error) -> bool {
    let refused =
        matches!(Errno::from_io_error(error), Some(Errno::NOSYS | Errno::PERM | Errno::INVAL));
    if refused {
        POOL.set(Pool { empty: Vec::new(), refused: Some(Instant::now()) });
    }
    refused
}

/// A new pipe, already counted; nothing where the kernel has none that is large enough.
fn open() -> Option<Pipe> {
    let made = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC);
    let Ok((reader, writer)) = made else {
        OPEN.fetch_sub(1, Ordering::Relaxed);
        return None;
    };
    let pipe = Pipe { reader, writer, filled: 0 };
    let size = fcntl_setpipe_size(&pipe.writer, CAPACITY)
        .or_else(|_: Errno| fcntl_getpipe_size(&pipe.writer));
    size.is_ok_and(|size| size >= LEAST_CAPACITY).then_some(pipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn kept() -> usize {
        POOL.with_borrow(|pool| pool.empty.len())
    }

    /// A pipe with five bytes in it, and a pair of sockets for them to go through.
    fn filled() -> (Pipe, [UnixStream; 2]) {
        let (mut from, socket) = UnixStream::pair().unwrap();
        from.write_all(b"hello").unwrap();
        let mut pipe = Pipe::take().unwrap();
        pipe.fill(&socket).unwrap();
        assert!(!pipe.is_empty());
        (pipe, UnixStream::pair().unwrap().into())
    }

    #[test]
    fn a_pipe_is_kept_when_it_is_empty_again_and_never_with_bytes_in_it() {
        filled().0.give_back();
        assert_eq!(kept(), 0);
        let (mut pipe, [to, mut end]) = filled();
        assert_eq!(pipe.drain(&to).unwrap(), 5);
        let mut got = [0; 5];
        end.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        pipe.give_back();
        assert_eq!(kept(), 1);
        drop(Pipe::take().unwrap());
        assert_eq!(kept(), 0);
    }

    #[test]
    fn after_a_refusal_no_pipe_is_taken_and_none_is_kept() {
        Pipe::take().unwrap().give_back();
        assert!(!refused(&io::ErrorKind::ConnectionReset.into()));
        assert!(!refused(&Errno::CONNRESET.into()));
        assert_eq!(kept(), 1);
        assert!(refused(&Errno::PERM.into()));
        assert_eq!(kept(), 0);
        assert!(Pipe::take().is_none());
    }
}
