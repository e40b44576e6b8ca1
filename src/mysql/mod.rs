//! The MySQL wire protocol, as far as a bridge has to speak it itself.
//!
//! Sans-io: functions from values to bytes and back, no socket, no clock.

pub mod packet;
