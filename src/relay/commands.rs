//! Where a client's packets begin, to stop before a command that somebody else has to deal with.
//!
//! A command is a packet with the sequence id 0 that continues no other one: not one of the longest
//! length, and not a run of data (LOCAL INFILE) whose ids have wrapped.
//! Source: MySQL Internals, "MySQL Packets".

use std::borrow::Cow;
use std::mem::take;

const HEADER_LEN: usize = 4;
/// A payload of this length is continued by the next packet.
const LONGEST: usize = 0xff_ffff;
const COM_CHANGE_USER: u8 = 0x11;

/// How far a client's bytes are known.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Bytes of the current packet that are still to come.
    left: usize,
    /// The beginning of a packet that cannot be told yet what it is: it waits here.
    head: Vec<u8>,
    /// Whether the next packet continues another one.
    continues: bool,
    last_sequence: u8,
    /// A change of user, from its first byte on.
    stopped: Option<Vec<u8>>,
}

impl Commands {
    /// Of these bytes what may go on, with what has waited before them. No bytes are the end: all that
    /// waits goes on.
    pub fn pass<'b>(&mut self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        if bytes.is_empty() {
            return Cow::Owned(take(&mut self.head));
        }
        if self.head.is_empty() {
            let count = self.look(bytes);
            return Cow::Borrowed(&bytes[..count]);
        }
        let mut all = take(&mut self.head);
        all.extend_from_slice(bytes);
        let count = self.look(&all);
        all.truncate(count);
        Cow::Owned(all)
    }

    /// Whether a change of user has come.
    pub fn has_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// What has come of it, and behind it.
    pub fn into_stopped(self) -> Option<Vec<u8>> {
        self.stopped
    }

    /// How many of these bytes may go on; the others are kept.
    fn look(&mut self, bytes: &[u8]) -> usize {
        let mut at = self.left.min(bytes.len());
        self.left -= at;
        while let Some(header) = bytes[at..].first_chunk::<HEADER_LEN>() {
            let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            let sequence = header[3];
            let is_command = sequence == 0 && !self.continues && self.last_sequence != u8::MAX;
            if is_command && length > 0 {
                match bytes.get(at + HEADER_LEN) {
                    None => break,
                    Some(&COM_CHANGE_USER) => {
                        self.stopped = Some(bytes[at..].to_vec());
                        return at;
                    }
                    Some(_) => {}
                }
            }
            self.continues = length == LONGEST;
            // An empty packet ends a run of data.
            self.last_sequence = if length == 0 { 0 } else { sequence };
            let whole = HEADER_LEN + length;
            let there = whole.min(bytes.len() - at);
            self.left = whole - there;
            at += there;
        }
        self.head = bytes[at..].to_vec();
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_le_bytes();
        [&length[..3], &[sequence], payload].concat()
    }

    /// What goes on of these bytes in pieces of such a length, and what stays.
    fn run(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut commands, mut passed) = (Commands::default(), Vec::new());
        for (number, chunk) in bytes.chunks(piece).enumerate() {
            passed.extend_from_slice(&commands.pass(chunk));
            if commands.has_stopped() {
                let later = &bytes[((number + 1) * piece).min(bytes.len())..];
                return (passed, Some([&commands.into_stopped().unwrap(), later].concat()));
            }
        }
        passed.extend_from_slice(&commands.pass(&[]));
        (passed, None)
    }

    #[test]
    fn a_change_of_user_stops_before_its_first_byte_however_it_is_cut() {
        let before = [packet(0, b"\x03SELECT 1"), packet(0, b"\x0e")].concat();
        let change = packet(0, b"\x11app\0");
        for piece in 1..40 {
            let (passed, stopped) = run(&[&before[..], &change].concat(), piece);
            assert_eq!((&passed, stopped.as_ref()), (&before, Some(&change)), "{piece}");
        }
    }

    #[test]
    fn what_only_looks_like_one_goes_on() {
        let data: Vec<u8> = (2..=u8::MAX).chain(0..3).flat_map(|id| packet(id, b"\x11")).collect();
        let long = [packet(0, &vec![3; LONGEST]), packet(0, b"\x11")];
        for bytes in [packet(1, b"\x11"), packet(0, b""), packet(0, b"\x03\x11"), data] {
            for piece in [1, 2, 3, 5, 1000] {
                assert_eq!(run(&bytes, piece), (bytes.clone(), None));
            }
        }
        let bytes = long.concat();
        // A packet of the longest length with the sequence id 0 is followed by one with 1.
        assert_eq!(run(&bytes, 1 << 16), (bytes.clone(), None));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_all_of_it_goes_on_or_is_kept(
            bytes in proptest::collection::vec(prop_oneof![Just(0), Just(0x11), any::<u8>()], 0..300),
            piece in 1..50_usize,
        ) {
            let (passed, stopped) = run(&bytes, piece);
            prop_assert_eq!([passed, stopped.unwrap_or_default()].concat(), bytes);
        }
    }
}
