//! `config.yml` of a cloudflared that leads to the listeners, and what has to be done once beside it.

use std::fmt::Write;

use super::set_up::{File, Leg, SetUp, SetUpError, listed};
use crate::config::Config;

/// Renders it for one listener, or for all.
pub fn render(config: &Config, listener: Option<&str>) -> Result<SetUp, SetUpError> {
    let mut legs = Leg::all(config, listener)?;
    if listener.is_none() && legs.iter().any(has_tcp) {
        legs.retain(has_tcp);
    }
    let mut rules = String::new();
    let mut names = Vec::new();
    for leg in &legs {
        let name = hostname(leg, legs.len(), &names);
        let (listener, gateway) = (&leg.listener.name, &leg.upstream.gateway);
        let _ = write!(
            rules,
            "  # listener {listener} -> {gateway}\n  - hostname: {name}\n    service: tcp://{}\n",
            leg.origin()?
        );
        names.push(name);
    }
    let mut once = String::new();
    for name in &names {
        let _ = writeln!(once, "#   cloudflared tunnel route dns <TUNNEL_ID> {name}");
    }
    once += TOKEN;
    for name in &names {
        once += &application(name);
    }
    let text = format!("{HEAD}{once}{RUN}{rules}{CATCH_ALL}\n{}", listed("#", &unknown(&names)));
    Ok(SetUp(vec![File { name: "config.yml", text }]))
}

const HEAD: &str = "\
# cloudflared's config.yml: the way from Cloudflare to tidegate, both on one host.
#
# Once, before it is used:
#
#   cloudflared tunnel login
#   cloudflared tunnel create tidegate
#
# The second writes <TUNNEL_ID>.json to ~/.cloudflared; `credentials-file` below has to say where it is.
#
# Then one of two routes for Hyperdrive; `tidegate render hyperdrive` has the rest of both.
#
# 1. Workers VPC. It needs cloudflared 2025.7.0 or later, and QUIC (UDP to port 7844 let out); it goes by
#    the tunnel's id, and neither by a hostname below nor by Access.
#
# 2. A hostname below, behind Access: without its application everybody could use it.
#
";

/// Its answer has the id of the token, and what Hyperdrive has to show: client_id and client_secret.
const TOKEN: &str = "\
#   api=https://api.cloudflare.com/client/v4/accounts/<ACCOUNT_ID>/access
#   curl \"$api/service_tokens\" -H \"Authorization: Bearer $CLOUDFLARE_API_TOKEN\" \\
#     --json '{\"name\": \"tidegate\", \"duration\": \"87600h\"}'
";

const RUN: &str = "\
#
# `cloudflared tunnel --config FILE ingress validate` checks this file, `cloudflared tunnel --config FILE
# run` puts it to use.

tunnel: <TUNNEL_ID>
credentials-file: /etc/cloudflared/<TUNNEL_ID>.json

ingress:
";

const CATCH_ALL: &str = "  \
  # The last rule has to take what no other does, else cloudflared does not start.
  - service: http_status:404
";

fn unknown(hostnames: &[String]) -> Vec<(&str, &'static str)> {
    let mut all = vec![
        ("<TUNNEL_ID>", "printed by `cloudflared tunnel create`; later `cloudflared tunnel list`"),
        ("<ACCOUNT_ID>", "of the Cloudflare account: `npx wrangler whoami`"),
        (
            "$CLOUDFLARE_API_TOKEN",
            "dash.cloudflare.com > My Profile > API Tokens; for the account, it edits \"Access: Service\n\
             Tokens\" and \"Access: Apps and Policies\"",
        ),
        ("<TOKEN_ID>", "`id` in the answer to the request for a service token"),
    ];
    let name = "a name of your own, in a zone of that account";
    all.extend(hostnames.iter().map(|hostname| (hostname.as_str(), name)));
    all
}

/// A listener of Unix sockets alone is no matter of cloudflared's, if others are.
fn has_tcp(leg: &Leg<'_>) -> bool {
    leg.listener.bind.iter().any(|bind| !bind.addresses().is_empty())
}

/// Each listener has a name of its own: some differ only in what is not legal there.
fn hostname(leg: &Leg<'_>, legs: usize, taken: &[String]) -> String {
    if legs == 1 {
        return "<HOSTNAME>".into();
    }
    let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = leg.listener.name.chars().map(legal).collect();
    let mut name = format!("<HOSTNAME_{name}>");
    while taken.contains(&name) {
        name = name.replace('>', "_2>");
    }
    name
}

/// The Access application of a hostname: service tokens alone, no people.
fn application(hostname: &str) -> String {
    format!(
        "#   curl \"$api/apps\" -H \"Authorization: Bearer $CLOUDFLARE_API_TOKEN\" --json '{{\n\
         #     \"name\": \"{hostname}\", \"type\": \"self_hosted\", \"domain\": \"{hostname}\",\n\
         #     \"app_launcher_visible\": false, \"policies\": [{{\"name\": \"Hyperdrive\",\n\
         #     \"decision\": \"non_identity\", \"include\": [{{\"service_token\": {{\"token_id\": \"<TOKEN_ID>\"}}}}]}}]}}'\n"
    )
}
