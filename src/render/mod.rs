//! What a set-up needs besides the configuration, written out.

pub mod aws_cli;
pub mod certificate;
pub mod cloudflared;
pub mod hyperdrive;
mod set_up;

pub use set_up::{File, SetUp, SetUpError};
