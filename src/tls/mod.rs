//! TLS towards servers.

pub mod client;
