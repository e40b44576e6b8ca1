//! Bytes without end that cost the server next to nothing: the same pages again and again.
//!
//! `tee` puts references to what one pipe holds into another, and `splice` hands them on to the
//! socket. What the pipe holds came through a TCP connection, because the kernel packs what is
//! written to one into pieces of up to 32 KiB, which stay whole in a pipe. `sendfile` hands over each
//! 4 KiB of the page cache by itself, which costs about as much as to copy them.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee};
use tokio::io::Interest;

use crate::distance::connect;
use crate::server::listen;

/// Bytes in a pipe: what anybody may give it.
const PIPE: usize = 1 << 20;
/// Bytes on their way through the connection at a time.
const PIECE: usize = 64 << 10;

/// What all streams take their bytes from. The reader; a writer only so that it never ends.
#[derive(Debug)]
pub struct Source(OwnedFd, #[expect(dead_code, reason = "kept open")] OwnedFd);

impl Source {
    /// One with [`PIPE`] bytes.
    pub fn fill() -> io::Result<Self> {
        let listener = listen()?;
        let mut writer = connect(listener.local_addr()?)?;
        let (reader, _) = listener.accept()?;
        let (source, end) = pipe()?;
        for _ in 0..PIPE / PIECE {
            writer.write_all(&[b'x'; PIECE])?;
            let mut left = PIECE;
            while left > 0 {
                left -= splice(&reader, None, &end, None, left, SpliceFlags::empty())?;
            }
        }
        Ok(Self(source, end))
    }

    /// Sends its bytes until the client has enough.
    pub async fn pour(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        let (reader, writer) = pipe()?;
        let mut left = 0;
        loop {
            if left == 0 {
                left = tee(&self.0, &writer, PIPE, SpliceFlags::NONBLOCK)?;
                // A client that never lets the queue fill up must not keep the others waiting.
                tokio::task::yield_now().await;
            }
            let send = || Ok(splice(&reader, None, stream, None, left, SpliceFlags::NONBLOCK)?);
            left -= stream.async_io(Interest::WRITABLE, send).await?;
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&writer, PIPE)?;
    Ok((reader, writer))
}
