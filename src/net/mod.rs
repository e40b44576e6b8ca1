//! Sockets: how they are opened, accepted, set up and asked.

pub mod connect;
pub mod listener;
pub mod proxy_protocol;
#[cfg(test)]
mod proxy_protocol_tests;
pub mod socket;
