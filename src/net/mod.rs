//! Sockets: how they are opened, accepted, set up and asked.

pub mod connect;
pub mod listener;
pub mod socket;
