//! tidegate: a self-hosted bridge to private MySQL-protocol gateways.
//!
//! # Layout
//!
//! | floor | room | holds |
//! | --- | --- | --- |
//! | 0 | [`config`] | flags, environment, file and defaults joined into finished values |
//! | 0 | [`metrics`], [`log`] | what the process tells of itself |
//! | 0 | [`show`] | text for people: tables, HTML, and its files |
//! | 0 | [`drain`], [`systemd`] | how it ends, and the service manager |
//! | 1 | [`net`] | listening (TCP and Unix), dialling, socket options, PROXY headers |
//! | 2 | [`tls`] | TLS with each side: certificates, whom to trust |
//! | 2 | [`relay`] | the data plane: bytes between two sockets |
//! | 3 | [`mysql`] | the wire protocol, without I/O but for its clients |
//! | 4 | [`upstream`] | a gateway's name, its addresses, a way to one of them |
//! | 5 | [`pool`] | connections to it that are there before their clients |
//! | 6 | [`proxy`] | one connection's story |
//! | 7 | [`admin`] | probes, metrics, status, drain over HTTP |
//! | side | [`doctor`] | walks the path to a gateway, and names the step that is broken |
//! | side | [`control`] | a client of a running bridge's admin endpoint |
//! | side | [`render`] | certificates, and set-ups for Cloudflare and AWS from the configuration |
//! | side | [`lint`] | what will not work in the files of such a set-up |
//! | side | [`load`] | a load generator for MySQL-protocol endpoints |
//! | side | [`demo`] | embedded DNS and MySQL servers, and a tour of the bridge on them |
//! | roof | [`app`], [`cli`], `main` | composition, command line, exit codes |
//!
//! A room imports only from lower floors; `tests/architecture.rs` reads the sources and keeps it
//! so.
//!
//! # One connection's life
//!
//! 1. [`net::listener::Listener::accept`] on one of the data threads; [`proxy::serve`]
//!    spawns the session as a task of that thread, where it stays. A load balancer that it trusts
//!    says first who the client is ([`net::proxy_protocol`]).
//! 2. [`upstream::Upstream::connect`] dials the gateway's endpoints in the order of their health,
//!    staggered. MySQL servers speak first, so an endpoint has answered when its first greeting
//!    byte is there; until then others can be tried without the client noticing. When none answers
//!    the client gets an ERR packet, [`mysql::packet::err_greeting`].
//!    With [`config::Pool::Warm`] one may be there already: [`pool::Pool::checkout`].
//! 3. [`relay::Relay`] moves bytes both ways: half-closes, breaks and stalls are passed on as what
//!    they are. Idle, it owns two sockets and no buffer. Until both sides have spoken,
//!    [`relay::Opening`] keeps what was said and the deadlines.
//! 4. The session's outcome writes one close record and one set of metrics, also when the session
//!    panicked. Of a storm of connections that found no upstream, most records are only counted:
//!    [`log::Repeats`].
#![forbid(unsafe_code)]
// What a hostile packet or an odd host can reach must not panic by accident.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic))]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod drain;
pub mod lint;
pub mod load;
pub mod log;
pub mod metrics;
pub mod mysql;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod relay;
pub mod render;
pub mod show;
pub mod systemd;
pub mod tls;
pub mod upstream;
