//! The candidates' configurations: all logs off, time-outs long; where there is TLS, all look at whose
//! certificate it is, and resume sessions.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::authority::{Authority, NAME};

/// A way through a candidate.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Where it forwards to.
    pub to: SocketAddr,
    pub tls: Leg,
}

/// Which leg of a way is TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    Neither,
    /// The candidate's own, as a client.
    Upstream,
    /// It ends at the candidate.
    Client,
}

/// Bytes of tidegate's pipes.
const PIPE: usize = 512 * 1024;

pub fn tidegate(ways: &[Way], protocol: &str, admin: SocketAddr, tls: &Authority) -> String {
    let mut text = format!("admin = \"{admin}\"\n");
    for (index, Way { bind, to, tls: leg }) in ways.iter().enumerate() {
        // Its TLS is MySQL's.
        let protocol = if *leg == Leg::Neither { protocol } else { "mysql" };
        text += &format!(
            "[[listener]]\nbind = \"{bind}\"\nupstream = \"u{index}\"\nprotocol = \"{protocol}\"\n"
        );
        if *leg == Leg::Client {
            text += &format!(
                "client_tls = \"required\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
                tls.certificate.display(),
                tls.key.display()
            );
        }
        text += &format!("[upstream.u{index}]\ngateway = \"{to}\"\n");
        if *leg == Leg::Client {
            text += "upstream_tls = \"off\"\n";
        }
        if *leg == Leg::Upstream {
            text += &format!(
                "upstream_tls = \"verify-identity\"\ntls_ca = \"{}\"\ntls_server_name = \"{NAME}\"\n",
                tls.ca.display()
            );
        }
    }
    text
}

pub fn haproxy(ways: &[Way], threads: usize, splice: bool, tls: &Authority) -> String {
    // Two descriptors for each session and each pipe have to fit into 20,000.
    let mut text = format!("global\n nbthread {threads}\n maxconn 6000\n");
    if splice {
        text += &format!(" maxpipes 1000\n tune.pipesize {PIPE}\n");
    }
    text += "defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n";
    if splice {
        text += " option splice-request\n option splice-response\n";
    }
    let (pair, ca) = (tls.pair.display(), tls.ca.display());
    for (index, Way { bind, to, tls }) in ways.iter().enumerate() {
        text += &format!("listen l{index}\n bind {bind}");
        if *tls == Leg::Client {
            text += &format!(" ssl crt {pair}");
        }
        text += &format!("\n server s {to}");
        if *tls == Leg::Upstream {
            text += &format!(" ssl verify required ca-file {ca} verifyhost {NAME} sni str({NAME})");
        }
        text += "\n";
    }
    text
}

pub fn nginx(ways: &[Way], workers: usize, tuned: bool, tls: &Authority) -> String {
    let mut text = format!(
        "daemon off;\nworker_processes {workers};\npid nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 16000; }}\nstream {{\n access_log off;\n proxy_timeout 1h;\n"
    );
    if rustix::process::geteuid().is_root() {
        text.insert_str(0, "user root;\n");
    }
    if tuned {
        text += " proxy_buffer_size 64k;\n proxy_half_close on;\n";
    }
    let (certificate, key) = (tls.certificate.display(), tls.key.display());
    let ca = tls.ca.display();
    for Way { bind, to, tls } in ways {
        let ssl = if *tls == Leg::Client { " ssl" } else { "" };
        text += &format!(" server {{ listen {bind}{ssl}; proxy_pass {to}; tcp_nodelay on;");
        if *tls == Leg::Client {
            text += &format!(
                " ssl_certificate {certificate}; ssl_certificate_key {key};\n\
                 ssl_protocols TLSv1.3; ssl_session_tickets on;"
            );
        }
        if *tls == Leg::Upstream {
            text += &format!(
                " proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;\n\
                 proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca};\n\
                 proxy_ssl_name {NAME}; proxy_ssl_server_name on;"
            );
        }
        text += " }\n";
    }
    text + "}\n"
}

pub fn envoy(ways: &[Way], tls: &Authority) -> String {
    let address = |address: &SocketAddr| -> Value {
        json!({ "socket_address": {
            "address": address.ip().to_string(), "port_value": address.port(),
        } })
    };
    let listener = |(index, way): (usize, &Way)| -> Value {
        let name = format!("c{index}");
        let mut chain = json!({
            "filters": [{
                "name": "tcp",
                "typed_config": {
                    "@type": "type.googleapis.com/\
                        envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": name,
                    "cluster": name,
                    "idle_timeout": "0s",
                },
            }],
        });
        if way.tls == Leg::Client {
            chain["transport_socket"] = envoy_tls(
                "DownstreamTlsContext",
                json!({ "common_tls_context": {
                    "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" },
                    "tls_certificates": [{
                        "certificate_chain": { "filename": tls.certificate },
                        "private_key": { "filename": tls.key },
                    }],
                } }),
            );
        }
        json!({ "name": name, "address": address(&way.bind), "filter_chains": [chain] })
    };
    let cluster = |(index, way): (usize, &Way)| -> Value {
        let name = format!("c{index}");
        let mut cluster = json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "10s",
            "circuit_breakers": { "thresholds": [{
                "max_connections": 100_000, "max_pending_requests": 100_000,
                "max_requests": 100_000, "max_retries": 100_000,
            }] },
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{
                    "lb_endpoints": [{ "endpoint": { "address": address(&way.to) } }],
                }],
            },
        });
        if way.tls == Leg::Upstream {
            cluster["transport_socket"] = envoy_tls(
                "UpstreamTlsContext",
                json!({ "sni": NAME, "common_tls_context": {
                    // Otherwise it stays with 1.2.
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "validation_context": {
                        "trusted_ca": { "filename": tls.ca },
                        "match_typed_subject_alt_names": [{
                            "san_type": "DNS", "matcher": { "exact": NAME },
                        }],
                    },
                } }),
            );
        }
        cluster
    };
    let listeners: Vec<Value> = ways.iter().enumerate().map(listener).collect();
    let clusters: Vec<Value> = ways.iter().enumerate().map(cluster).collect();
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } }).to_string()
}

fn envoy_tls(context: &str, mut settings: Value) -> Value {
    let name = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}");
    settings["@type"] = json!(name);
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": settings })
}

/// TLS is all that it does.
pub fn stunnel(ways: &[Way], tls: &Authority) -> String {
    let mut text = "foreground = yes\nsyslog = no\ndebug = err\npid =\n\
                    socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
        .to_owned();
    let (certificate, key) = (tls.certificate.display(), tls.key.display());
    let ca = tls.ca.display();
    for (index, Way { bind, to, tls }) in ways.iter().enumerate() {
        text += &format!("[s{index}]\naccept = {bind}\nconnect = {to}\n");
        text += &match tls {
            Leg::Neither => String::new(),
            Leg::Upstream => format!(
                "client = yes\nverifyChain = yes\nCAfile = {ca}\ncheckHost = {NAME}\nsni = {NAME}\n"
            ),
            Leg::Client => format!("cert = {certificate}\nkey = {key}\n"),
        };
    }
    text
}

/// The command of one way; socat has no configuration.
pub fn socat(Way { bind, to, .. }: &Way) -> String {
    let (port, ip) = (bind.port(), bind.ip());
    format!(
        "socat TCP-LISTEN:{port},bind={ip},reuseaddr,fork,nodelay,backlog=4096 TCP:{to},nodelay"
    )
}
