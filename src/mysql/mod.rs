//! The MySQL wire protocol, as far as a bridge has to speak it itself.
//!
//! Sans-io: functions from values to bytes and back, no socket, no clock; `client` and `packets` alone
//! drive them on one.

pub mod auth;
#[cfg(test)]
mod auth_tests;
pub mod client;
pub mod handshake;
pub mod packet;
pub mod packets;
pub mod response;
#[cfg(test)]
mod response_tests;
pub mod rsa;
#[cfg(test)]
mod transcripts_tests;
