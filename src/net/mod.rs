//! Sockets: how they are opened, accepted, set up and asked.

pub mod address;
pub mod connect;
pub mod listener;
pub mod socket;
pub mod stream;
pub mod unix;
