//! TLS with each side: what it is set up from, the files' contents checked.

pub mod cert;
pub mod client;
mod error;
pub mod look;
pub mod reason;
pub mod server;
#[cfg(test)]
mod tests;
mod trust;
#[cfg(test)]
mod trust_tests;

pub use error::{FileError, TlsError};
