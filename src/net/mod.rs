//! Sockets: how they are opened, accepted, set up and asked, what comes first on them, and TLS.

pub mod address;
pub mod connect;
pub mod descriptors;
pub mod listener;
#[cfg(test)]
mod listener_tests;
pub mod proxy_protocol;
#[cfg(test)]
mod proxy_protocol_tests;
pub mod secure;
pub mod socket;
mod spare;
pub mod stream;
pub mod transport;
pub mod unix;
