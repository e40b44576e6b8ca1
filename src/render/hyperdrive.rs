//! Cloudflare Hyperdrive in front of a listener: the commands of both its routes to a private server, the
//! binding, and a Worker that uses it.

use std::net::SocketAddr;
use std::path::Path;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::set_up::{File, Leg, SetUp, SetUpError, Unknown, listed, script};
use crate::config::{ClientTls, Config, UpstreamTls};
use crate::tls::cert::read_chain;
use crate::upstream::plan::Service;

/// Renders it for one listener.
pub fn render(config: &Config, listener: Option<&str>) -> Result<SetUp, SetUpError> {
    let leg = Leg::one(Leg::all(config, listener)?, |leg| leg.listener.name.clone())?;
    let certificate = Certificate::of(&leg)?;
    let origin = leg.origin()?;
    Ok(SetUp(vec![
        File { name: "vpc.sh", text: vpc(&leg, &certificate, origin) },
        File { name: "access.sh", text: access(&leg, &certificate, origin) },
        File {
            name: "wrangler.jsonc",
            text: format!("{BINDING}{}", listed("//", &[HYPERDRIVE_ID])),
        },
        File { name: "worker.js", text: WORKER.into() },
    ]))
}

/// Whose certificate Hyperdrive is shown: TLS is always spoken with it.
#[derive(Debug, PartialEq, Eq)]
enum Certificate {
    /// The server's own, through the bridge.
    Servers(Option<Service>),
    /// The bridge's. Its first DNS name, if it is known.
    Bridges(Known),
}

/// What can be told of the bridge's certificate here.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// The file cannot be read on this host.
    Nothing,
    /// It has signed itself: nobody else vouches for it.
    SignsItself,
    /// An authority has signed it, for this name.
    Name(String),
    /// An authority has signed it, for no name that can be resolved.
    NoName,
}

impl Certificate {
    fn of(leg: &Leg<'_>) -> Result<Self, SetUpError> {
        let upstream_tls = leg.upstream.tls.upstream_tls;
        match leg.listener.tls.client_tls {
            ClientTls::Off if upstream_tls != UpstreamTls::Passthrough => Err(SetUpError::NoTls {
                listener: leg.listener.name.clone(),
                upstream: leg.upstream.name.clone(),
                upstream_tls: upstream_tls.as_str(),
            }),
            ClientTls::Off => Ok(Self::Servers(leg.plan.as_ref().map(|plan| plan.service))),
            ClientTls::Optional | ClientTls::Required => {
                let file = leg.listener.tls.tls_cert.first();
                Ok(Self::Bridges(file.map_or(Known::Nothing, |file| Known::of(file))))
            }
        }
    }

    /// Whose it is, and what that means, in lines.
    fn explained(&self) -> &'static str {
        match self {
            Self::Servers(Some(Service::Starter)) => {
                "The listener passes TLS through (client_tls = \"off\"): Hyperdrive speaks it with the gateway\n\
                 itself, whose certificate is Let's Encrypt's."
            }
            Self::Servers(Some(_)) => {
                "The listener passes TLS through (client_tls = \"off\"): Hyperdrive speaks it with the server\n\
                 itself, whose authority is none of those that Cloudflare knows."
            }
            Self::Servers(None) => {
                "The listener passes TLS through (client_tls = \"off\"): Hyperdrive speaks it with the server\n\
                 itself. A server that offers none is refused with error 2012: client_tls = \"required\" helps."
            }
            Self::Bridges(Known::SignsItself) => {
                "TLS ends at tidegate (client_tls), whose certificate has signed itself. A certificate of a\n\
                 public authority, or of Cloudflare's Origin CA, could be verified."
            }
            Self::Bridges(_) => {
                "TLS ends at tidegate (client_tls), whose certificate is tls_cert's."
            }
        }
    }

    /// How Workers VPC reaches the bridge, and what it looks at: flags, and why they are these.
    fn verified(&self, origin: SocketAddr) -> (String, &'static str) {
        let by_address = |mode: &str| {
            let kind = if origin.is_ipv4() { "ipv4" } else { "ipv6" };
            format!("--{kind} {} --cert-verification-mode {mode}", origin.ip())
        };
        let by_name =
            |name: &str| format!("--hostname {name} --cert-verification-mode verify_full");
        match self {
            Self::Servers(Some(Service::Starter) | None) => (
                by_address("verify_ca"),
                "verify_full would want a certificate for this address, and the gateway's name in its place\n\
                 would lead past tidegate.",
            ),
            Self::Servers(Some(_)) | Self::Bridges(Known::SignsItself) => (
                by_address("disabled"),
                "Workers VPC trusts public authorities and Cloudflare's Origin CA, and takes no other.",
            ),
            Self::Bridges(Known::Nothing) => (by_name("\"$CERTIFICATE_NAME\""), NAME),
            Self::Bridges(Known::Name(name)) => (by_name(name), NAME),
            Self::Bridges(Known::NoName) => (
                by_address("verify_ca"),
                "The certificate has no name that could be resolved. An authority of your own is refused: then\n\
                 `disabled`.",
            ),
        }
    }
}

const NAME: &str = "The name has to be in the certificate, and cloudflared's DNS server has to answer it with tidegate's\n\
                    address. An authority of your own is refused: then --ipv4 ADDRESS and `disabled`.";

impl Known {
    fn of(file: &Path) -> Self {
        let Ok(chain) = read_chain(file) else { return Self::Nothing };
        let Ok((_, leaf)) = X509Certificate::from_der(&chain[0]) else { return Self::Nothing };
        if leaf.subject().as_raw() == leaf.issuer().as_raw() {
            return Self::SignsItself;
        }
        let names = leaf.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let name = names.filter_map(|name| match name {
            GeneralName::DNSName(name) if is_plain(name) => Some((*name).to_owned()),
            _ => None,
        });
        name.into_iter().next().map_or(Self::NoName, Self::Name)
    }
}

/// No wildcard, and nothing that a shell could take for more than a word.
fn is_plain(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(legal)
}

const DATABASE: [Unknown; 3] = [
    ("DB_NAME", "the database"),
    ("DB_USER", "its user, with mysql_native_password or caching_sha2_password"),
    (
        "DB_PASSWORD",
        "the user's password; the processes of this host can see it while wrangler runs",
    ),
];
const STARTER_USER: Unknown = (
    "DB_USER",
    "its user with the cluster's prefix, PREFIX.USER, without which the gateway refuses it; in TiDB\n\
     Cloud the Connect dialog has it",
);
const HYPERDRIVE_ID: Unknown =
    ("<HYPERDRIVE_ID>", "printed by vpc.sh or access.sh; later `npx wrangler hyperdrive list`");

fn database(leg: &Leg<'_>) -> Vec<Unknown> {
    let is_starter = leg.plan.as_ref().is_some_and(|plan| plan.service == Service::Starter);
    let [name, user, password] = DATABASE;
    vec![name, if is_starter { STARTER_USER } else { user }, password]
}

/// What both routes begin with.
fn title(what: &str, leg: &Leg<'_>, certificate: &Certificate, origin: SocketAddr) -> String {
    let (listener, gateway) = (&leg.listener.name, &leg.upstream.gateway);
    format!(
        "{what}\n\
         Of the two, vpc.sh and access.sh, one is needed.\n\
         \n\
         Listener {listener} at {origin} goes to\n{gateway}.\n\
         \n\
         {}\n\
         \n\
         Hyperdrive keeps answers for 60 s unless it is told --caching-disabled.",
        certificate.explained()
    )
}

fn vpc(leg: &Leg<'_>, certificate: &Certificate, origin: SocketAddr) -> String {
    let mut unknown = vec![(
        "TUNNEL_ID",
        "the tunnel's id, `cloudflared tunnel list`; it has to run, with QUIC (UDP to port 7844)",
    )];
    if *certificate == Certificate::Bridges(Known::Nothing) {
        unknown.push(("CERTIFICATE_NAME", "a DNS name in the certificate of tls_cert"));
    }
    unknown.extend(database(leg));
    let title = title("Hyperdrive by Workers VPC, the newer route.", leg, certificate, origin);
    let head = script(&title, &unknown);
    let (reached, why) = certificate.verified(origin);
    let why = why.replace('\n', "\n  # ");
    unknown.push((
        "SERVICE_ID",
        "printed when this is run without it; later `npx wrangler vpc service list`",
    ));
    format!(
        "{head}\n\
         if [ -z \"${{SERVICE_ID:-}}\" ]; then\n  \
           # {why}\n  \
           npx wrangler vpc service create tidegate --type tcp --tcp-port {} --app-protocol mysql \\\n    \
             --tunnel-id \"$TUNNEL_ID\" {reached}\n  \
           echo 'Run this again with SERVICE_ID, the id that was printed.' >&2\n  \
           exit\n\
         fi\n\
         npx wrangler hyperdrive create tidegate --service-id \"$SERVICE_ID\" --scheme mysql \\\n  \
           --database \"$DB_NAME\" --user \"$DB_USER\" --password \"$DB_PASSWORD\"\n\
         \n{}",
        origin.port(),
        listed("#", &unknown)
    )
}

fn access(leg: &Leg<'_>, certificate: &Certificate, origin: SocketAddr) -> String {
    let mut unknown = vec![
        (
            "TUNNEL_HOSTNAME",
            "the hostname of config.yml, with its DNS route and its Access application:\n\
                             `tidegate render cloudflared` says how to make them",
        ),
        ("ACCESS_CLIENT_ID", "`client_id` in the answer to the request for a service token"),
        ("ACCESS_CLIENT_SECRET", "`client_secret` in that answer; it is shown that one time"),
    ];
    unknown.extend(database(leg));
    let title =
        title("Hyperdrive by the hostname of a tunnel, behind Access.", leg, certificate, origin);
    format!(
        "{}\n\
         # No port: the tunnel's config.yml has it. As it comes, no certificate is verified on this route.\n\
         npx wrangler hyperdrive create tidegate --host \"$TUNNEL_HOSTNAME\" --scheme mysql \\\n  \
           --access-client-id \"$ACCESS_CLIENT_ID\" --access-client-secret \"$ACCESS_CLIENT_SECRET\" \\\n  \
           --database \"$DB_NAME\" --user \"$DB_USER\" --password \"$DB_PASSWORD\"\n\
         \n{}",
        script(&title, &unknown),
        listed("#", &unknown)
    )
}

const BINDING: &str = r#"{
  "name": "tidegate-example",
  "main": "worker.js",
  // mysql2 needs both of these.
  "compatibility_date": "2025-09-01",
  "compatibility_flags": ["nodejs_compat"],
  "hyperdrive": [{ "binding": "HYPERDRIVE", "id": "<HYPERDRIVE_ID>" }]
}

"#;

const WORKER: &str = r#"// A Worker that asks through Hyperdrive. Once: npm install mysql2@^3.13.0
import { createConnection } from "mysql2/promise";

export default {
  async fetch(request, env, ctx) {
    // One for each request: the connections to the server are kept by Hyperdrive.
    const connection = await createConnection({
      host: env.HYPERDRIVE.host,
      port: env.HYPERDRIVE.port,
      user: env.HYPERDRIVE.user,
      password: env.HYPERDRIVE.password,
      database: env.HYPERDRIVE.database,
      // Workers let nobody compile code; mysql2 would.
      disableEval: true,
    });
    try {
      // query(), not execute(): Hyperdrive has no prepared statements of the protocol.
      const [rows] = await connection.query("SELECT VERSION() AS version, ? AS one", [1]);
      return Response.json(rows);
    } finally {
      ctx.waitUntil(connection.end());
    }
  },
};
"#;
