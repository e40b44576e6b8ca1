//! Sockets: how they are opened, accepted, set up and asked, and what comes first on them.

pub mod address;
pub mod connect;
pub mod descriptors;
pub mod listener;
pub mod proxy_protocol;
#[cfg(test)]
mod proxy_protocol_tests;
pub mod socket;
mod spare;
pub mod stream;
pub mod unix;
