//! What the embedded DNS server answers: what it was told is true, or the lie it was told to tell.
//!
//! No sockets here: a question's bytes come in, an answer's bytes and when to send them go out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

/// How long the answer that a name does not exist may be remembered, in seconds.
const NEGATIVE_TTL: u32 = 1;
/// The largest UDP answer offered by EDNS, in bytes. Source: DNS flag day 2020.
const UDP_PAYLOAD: u16 = 1232;
/// The label of a link of a CNAME chain, before its number.
const LINK: &str = "link";

/// What is answered in place of the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// There is no such name.
    NxDomain,
    /// The name exists and has nothing of the kind.
    NoData,
    /// The server could not find out.
    ServFail,
    /// The server does not want to tell.
    Refused,
    /// No answer at all.
    Silence,
    /// Bytes that begin like an answer to the question and are none; others each time.
    Garbage,
    /// The truth, over TCP only: over UDP an empty answer that says it is not all.
    Truncated,
    /// The truth under the id of another question.
    WrongId,
    /// The truth as an answer to a question about another name.
    WrongQuestion,
    /// The truth behind as many CNAMEs as there are TTLs here, all in one message.
    Chain(Vec<u32>),
    /// As [`Self::Chain`], but a message tells one link only: each has to be asked for.
    Links(Vec<u32>),
    /// The truth, that much later.
    Late(Duration),
}

/// How a question came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Names, what is true of them, and what is said of them.
#[derive(Debug, Default)]
pub(super) struct Zone {
    truths: HashMap<LowerName, Truth>,
    lies: HashMap<(LowerName, RecordType), Lie>,
    queries: HashMap<(Transport, RecordType), u64>,
}

#[derive(Debug, Clone)]
struct Truth {
    addresses: Vec<IpAddr>,
    ttl: u32,
}

/// An answer, and how long to wait before it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub after: Duration,
    pub bytes: Vec<u8>,
}

/// What goes out, in the sections of a DNS message.
struct Sections {
    code: ResponseCode,
    answers: Vec<Record>,
    soa: Option<Record>,
}

impl Sections {
    fn code(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), soa: None }
    }

    /// Nothing, and the SOA that lets a resolver remember that for `ttl` seconds (RFC 2308).
    fn none(code: ResponseCode, name: &Name, ttl: u32) -> Self {
        let zone = name.base_name();
        let data = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86_400, ttl);
        Self { soa: Some(Record::from_rdata(zone, ttl, RData::SOA(data))), ..Self::code(code) }
    }
}

impl Zone {
    pub fn set(&mut self, name: LowerName, addresses: &[IpAddr], ttl: u32) {
        self.truths.insert(name, Truth { addresses: addresses.to_vec(), ttl });
    }

    pub fn lie(&mut self, name: LowerName, kind: RecordType, lie: Lie) {
        self.lies.insert((name, kind), lie);
    }

    pub fn end_lies(&mut self, name: &LowerName) {
        self.lies.retain(|(of, _), _| of != name);
    }

    /// How many questions of this type came in over this transport.
    pub fn queries(&self, transport: Transport, kind: RecordType) -> u64 {
        self.queries.get(&(transport, kind)).copied().unwrap_or_default()
    }

    /// Answers the bytes of a question; nothing if they are none, or to be silent about it.
    pub fn reply(&mut self, question: &[u8], transport: Transport) -> Option<Reply> {
        let question = Message::from_vec(question).ok()?;
        let mut answer = Message::query();
        answer.metadata = Metadata::response_from_request(&question.metadata);
        answer.queries = question.queries.clone();
        // Who asks with EDNS is answered with it (RFC 6891).
        answer.edns = question.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            edns
        });
        let mut after = Duration::ZERO;
        match question.queries.first() {
            None => answer.metadata.response_code = ResponseCode::FormErr,
            Some(_) if question.op_code != OpCode::Query => {
                answer.metadata.response_code = ResponseCode::NotImp;
            }
            Some(query) => {
                *self.queries.entry((transport, query.query_type())).or_default() += 1;
                let (name, link) = self.owner(query.name());
                let lie = self.lies.get(&(name.clone(), query.query_type()));
                let sections = self.sections(&name, link, query, lie);
                answer.metadata.authoritative = true;
                answer.metadata.response_code = sections.code;
                answer.answers = sections.answers;
                answer.authorities = sections.soa.into_iter().collect();
                match lie {
                    Some(Lie::Silence) => return None,
                    Some(Lie::Garbage) => return Some(garbage(question.id)),
                    Some(Lie::WrongId) => answer.metadata.id = !question.id,
                    Some(Lie::WrongQuestion) => {
                        let other = linked(query.name(), 0);
                        answer.queries = vec![Query::query(other, query.query_type())];
                    }
                    Some(Lie::Late(time)) => after = *time,
                    Some(Lie::Truncated) if transport == Transport::Udp => {
                        answer = answer.truncate();
                    }
                    _ => {}
                }
            }
        }
        let mut bytes = answer.to_vec().ok()?;
        let largest = question.max_payload().min(UDP_PAYLOAD);
        if transport == Transport::Udp && bytes.len() > largest.into() {
            bytes = answer.truncate().to_vec().ok()?;
        }
        Some(Reply { after, bytes })
    }

    /// Whose name this is, and which link of its CNAME chain; 0 is the name itself.
    fn owner(&self, name: &Name) -> (LowerName, usize) {
        let label = name.iter().next().and_then(|label| str::from_utf8(label).ok());
        let number = label.and_then(|label| label.strip_prefix(LINK)?.parse().ok());
        let whole = LowerName::new(name);
        match number {
            Some(number) if !self.truths.contains_key(&whole) => {
                (LowerName::new(&name.base_name()), number)
            }
            _ => (whole, 0),
        }
    }

    /// The records for a question about `name`, or about a link of its chain.
    fn sections(
        &self,
        name: &LowerName,
        link: usize,
        query: &Query,
        lie: Option<&Lie>,
    ) -> Sections {
        let (asked, kind) = (query.name(), query.query_type());
        let ttls = match lie {
            Some(Lie::NxDomain) => {
                return Sections::none(ResponseCode::NXDomain, asked, NEGATIVE_TTL);
            }
            Some(Lie::NoData) => return Sections::none(ResponseCode::NoError, asked, NEGATIVE_TTL),
            Some(Lie::ServFail) => return Sections::code(ResponseCode::ServFail),
            Some(Lie::Refused) => return Sections::code(ResponseCode::Refused),
            Some(Lie::Chain(ttls) | Lie::Links(ttls)) => ttls.as_slice(),
            _ => &[],
        };
        let Some(truth) = self.truths.get(name).filter(|_| link <= ttls.len()) else {
            return Sections::none(ResponseCode::NXDomain, asked, NEGATIVE_TTL);
        };
        let mut owner = asked.clone();
        let mut answers = Vec::new();
        for (number, ttl) in (1..).zip(ttls).skip(link) {
            let next = linked(&Name::from(name), number);
            let data = RData::CNAME(CNAME(next.clone()));
            answers.push(Record::from_rdata(owner, *ttl, data));
            owner = next;
            if matches!(lie, Some(Lie::Links(_))) {
                return Sections { answers, ..Sections::code(ResponseCode::NoError) };
            }
        }
        let links = answers.len();
        let data = truth.addresses.iter().filter_map(|address| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(RData::A((*v4).into())),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA((*v6).into())),
            _ => None,
        });
        answers.extend(data.map(|data| Record::from_rdata(owner.clone(), truth.ttl, data)));
        if answers.len() == links {
            return Sections {
                answers,
                ..Sections::none(ResponseCode::NoError, &owner, truth.ttl)
            };
        }
        Sections { answers, ..Sections::code(ResponseCode::NoError) }
    }
}

/// The name of a link of the chain of `name`.
fn linked(name: &Name, number: usize) -> Name {
    name.prepend_label(format!("{LINK}{number}")).expect("the name leaves room for a label")
}

/// The header of an answer with more of everything than there are bytes, and then noise.
fn garbage(id: u16) -> Reply {
    let noise = (1..=64).map(|at: u16| id.wrapping_mul(at) as u8);
    let header = [&id.to_be_bytes()[..], &[0x81, 0x80], &[0xff; 8]].concat();
    Reply { after: Duration::ZERO, bytes: header.into_iter().chain(noise).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_never_a_message() {
        for id in 0..=u16::MAX {
            let garbage = garbage(id).bytes;
            assert_eq!(garbage[..2], id.to_be_bytes(), "a wrong id would be another lie");
            assert!(Message::from_vec(&garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn a_lie_about_one_type_leaves_the_other_true() {
        let mut zone = zone();
        zone.lie(lower("db.test."), RecordType::A, Lie::ServFail);
        let codes = [RecordType::A, RecordType::AAAA]
            .map(|kind| ask(&mut zone, "db.test.", kind, Transport::Udp).response_code);
        assert_eq!(codes, [ResponseCode::ServFail, ResponseCode::NoError]);
        zone.end_lies(&lower("db.test."));
        let answer = ask(&mut zone, "DB.test.", RecordType::A, Transport::Udp);
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(zone.queries(Transport::Udp, RecordType::A), 2);
    }

    #[test]
    fn a_link_of_a_chain_can_be_asked_for_and_exists_only_as_long_as_the_chain() {
        let mut zone = zone();
        zone.lie(lower("db.test."), RecordType::A, Lie::Links(vec![7, 8]));
        let mut ttls = |name| -> Vec<(RecordType, u32)> {
            let answer = ask(&mut zone, name, RecordType::A, Transport::Udp);
            answer.answers.iter().map(|record| (record.record_type(), record.ttl)).collect()
        };
        assert_eq!(ttls("db.test."), [(RecordType::CNAME, 7)]);
        assert_eq!(ttls("link1.db.test."), [(RecordType::CNAME, 8)]);
        assert_eq!(ttls("link2.db.test."), [(RecordType::A, 60)]);
        assert_eq!(ttls("link3.db.test."), []);
        zone.lie(lower("db.test."), RecordType::A, Lie::Chain(vec![7, 8]));
        let whole = ask(&mut zone, "db.test.", RecordType::A, Transport::Udp);
        assert_eq!(whole.answers.len(), 3);
    }

    #[test]
    fn what_does_not_fit_into_a_datagram_is_truncated_there_and_whole_over_tcp() {
        let mut zone = Zone::default();
        let addresses: Vec<_> =
            (0..300).map(|at| IpAddr::from([10, 0, (at >> 8) as u8, at as u8])).collect();
        zone.set(lower("db.test."), &addresses, 60);
        let udp = ask(&mut zone, "db.test.", RecordType::A, Transport::Udp);
        assert!(udp.truncation && udp.answers.is_empty());
        let tcp = ask(&mut zone, "db.test.", RecordType::A, Transport::Tcp);
        assert!(!tcp.truncation && tcp.answers.len() == 300);
    }

    fn zone() -> Zone {
        let mut zone = Zone::default();
        let addresses = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
        zone.set(lower("db.test."), &addresses, 60);
        zone
    }

    fn lower(name: &str) -> LowerName {
        LowerName::new(&Name::from_ascii(name).unwrap())
    }

    fn ask(zone: &mut Zone, name: &str, kind: RecordType, by: Transport) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let reply = zone.reply(&question.to_vec().unwrap(), by).expect("it is not silent");
        Message::from_vec(&reply.bytes).unwrap()
    }
}
