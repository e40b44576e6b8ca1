//! The MySQL wire protocol, as far as a bridge has to speak it itself.
//!
//! Sans-io: functions from values to bytes and back, no socket, no clock; `client` alone drives them on
//! one.

pub mod client;
pub mod handshake;
pub mod packet;
#[cfg(test)]
mod transcripts_tests;
