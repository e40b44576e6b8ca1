//! The MySQL wire protocol, as far as a bridge has to speak it itself.
//!
//! Sans-io: functions from values to bytes and back, no socket, no clock; `client`, `packets`, `channel`
//! and `login` alone drive them on one. The first two are the bridge's, which passes on what others
//! say; the other two are a client of its own: of `load` and `doctor`.

pub mod auth;
#[cfg(test)]
mod auth_tests;
pub mod channel;
pub mod client;
pub mod error;
pub mod handshake;
pub mod login;
#[cfg(test)]
mod login_tests;
pub mod packet;
pub mod packets;
pub mod response;
#[cfg(test)]
mod response_tests;
pub mod rsa;
#[cfg(test)]
mod transcripts_tests;
