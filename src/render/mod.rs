//! What a set-up needs besides the configuration, written out.

pub mod certificate;
