//! What is left of a relay that ended while there was more to do with its connections.

use super::{Limits, Opening, Relay};
use crate::net::transport::Transport;

/// What is left of a relay that ended before both sides had spoken.
#[derive(Debug)]
pub struct Parting {
    /// The client's connection.
    pub client: Transport,
    /// The upstream's connection.
    pub upstream: Transport,
    /// What they said.
    pub opening: Box<Opening>,
}

/// What is left of a relay whose client changes its user.
#[derive(Debug)]
pub struct Change {
    /// The client's connection.
    pub client: Transport,
    /// The upstream's connection.
    pub upstream: Transport,
    /// The command, as far as it was read, and what was read behind it.
    pub said: Vec<u8>,
    /// As they were given.
    pub limits: Limits,
}

impl Relay {
    /// It ends before the client's next change of user, with [`Reason::ChangesUser`](super::Reason::ChangesUser).
    pub fn until_the_user_changes(mut self) -> Self {
        self.commands = Some(Box::default());
        self
    }

    /// After [`Reason::ChangesUser`](super::Reason::ChangesUser): what goes on with another relay.
    pub fn into_change(self) -> Option<Change> {
        Some(Change {
            client: self.client.stream,
            upstream: self.upstream.stream,
            said: self.commands?.into_stopped()?,
            limits: self.quiet.into_limits(),
        })
    }

    /// After its end: the sockets, if not both sides had spoken and none had broken.
    pub fn into_parting(self) -> Option<Parting> {
        let opening = self.opening?;
        Some(Parting { client: self.client.stream, upstream: self.upstream.stream, opening })
    }
}
