//! The candidates' configurations: all logs off, time-outs long.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// Where a candidate listens, and where it forwards to.
pub type Way = (SocketAddr, SocketAddr);

/// Bytes of tidegate's pipes.
const PIPE: usize = 512 * 1024;

pub fn tidegate(ways: &[Way], protocol: &str, admin: SocketAddr) -> String {
    let mut text = format!("admin = \"{admin}\"\n");
    for (index, (bind, to)) in ways.iter().enumerate() {
        text += &format!(
            "[[listener]]\nbind = \"{bind}\"\nupstream = \"u{index}\"\nprotocol = \"{protocol}\"\n\
             [upstream.u{index}]\ngateway = \"{to}\"\n"
        );
    }
    text
}

pub fn haproxy(ways: &[Way], threads: usize, splice: bool) -> String {
    // Two descriptors for each session and each pipe have to fit into 20,000.
    let mut text = format!("global\n nbthread {threads}\n maxconn 6000\n");
    if splice {
        text += &format!(" maxpipes 1000\n tune.pipesize {PIPE}\n");
    }
    text += "defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n";
    if splice {
        text += " option splice-request\n option splice-response\n";
    }
    for (index, (bind, to)) in ways.iter().enumerate() {
        text += &format!("listen l{index}\n bind {bind}\n server s {to}\n");
    }
    text
}

pub fn nginx(ways: &[Way], workers: usize, tuned: bool) -> String {
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
    for (bind, to) in ways {
        text += &format!(" server {{ listen {bind}; proxy_pass {to}; tcp_nodelay on; }}\n");
    }
    text + "}\n"
}

pub fn envoy(ways: &[Way]) -> String {
    let address = |address: &SocketAddr| -> Value {
        json!({ "socket_address": {
            "address": address.ip().to_string(), "port_value": address.port(),
        } })
    };
    let listener = |(index, (bind, _)): (usize, &Way)| -> Value {
        let name = format!("c{index}");
        json!({
            "name": name,
            "address": address(bind),
            "filter_chains": [{ "filters": [{
                "name": "tcp",
                "typed_config": {
                    "@type": "type.googleapis.com/\
                        envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": name,
                    "cluster": name,
                    "idle_timeout": "0s",
                },
            }] }],
        })
    };
    let cluster = |(index, (_, to)): (usize, &Way)| -> Value {
        let name = format!("c{index}");
        json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "10s",
            "circuit_breakers": { "thresholds": [{
                "max_connections": 100_000, "max_pending_requests": 100_000,
                "max_requests": 100_000, "max_retries": 100_000,
            }] },
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(to) } }] }],
            },
        })
    };
    let listeners: Vec<Value> = ways.iter().enumerate().map(listener).collect();
    let clusters: Vec<Value> = ways.iter().enumerate().map(cluster).collect();
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } }).to_string()
}

/// The command of one way; socat has no configuration.
pub fn socat((bind, to): &Way) -> String {
    let (port, ip) = (bind.port(), bind.ip());
    format!(
        "socat TCP-LISTEN:{port},bind={ip},reuseaddr,fork,nodelay,backlog=4096 TCP:{to},nodelay"
    )
}
