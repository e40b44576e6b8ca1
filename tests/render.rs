//! `tidegate render cloudflared | hyperdrive | aws-cli`: what is written is what its programs take.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use saphyr_parser::{Event, Parser};
use tempfile::TempDir;
use tidegate::lint::{Source, lint};

use support::process::copy_program;

const STARTER: &str = "gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com";
const DEDICATED: &str = "privatelink-7.abc.clusters.tidb-cloud.com";
const TARGETS: [&str; 3] = ["cloudflared", "hyperdrive", "aws-cli"];

/// Two listeners, one of them also on a Unix socket, to gateways of two kinds.
const TWO: &str = "
[[listener]]
name = \"app\"
bind = [\"unix:/run/tidegate.sock\", \"0.0.0.0:4000\"]
allow_any = true
upstream = \"tidb\"
[[listener]]
name = \"reports\"
bind = \"[::1]:4001\"
upstream = \"dedicated\"
[upstream.tidb]
gateway = \"gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com:4000\"
[upstream.dedicated]
gateway = \"privatelink-7.abc.clusters.tidb-cloud.com:4100\"
";

#[test]
fn what_is_rendered_has_nothing_that_lint_finds() {
    for gateway in [STARTER, DEDICATED, "gateway01.us-east-1.prod.aws.tidbcloud.com"] {
        let mut all = Vec::new();
        for target in TARGETS {
            let folder = written(&[target, gateway]);
            for file in files(folder.path()) {
                all.push(Source::read(file.to_str().unwrap()).unwrap());
                assert_eq!(lint(&all[all.len() - 1..]).findings, [], "{}", file.display());
            }
        }
        // One of the two routes, and both.
        assert_eq!(lint(&all).findings, []);
        assert_eq!(all.len(), 6);
    }
}

#[test]
fn cloudflared_is_led_to_each_listener_and_ends_with_a_catch_all_rule() {
    let text = said(&["cloudflared", STARTER]);
    assert_eq!(ingress(&text), [["<HOSTNAME>", "tcp://127.0.0.1:4000"], ["", "http_status:404"]]);
    assert!(text.contains("#   cloudflared tunnel route dns <TUNNEL_ID> <HOSTNAME>\n"), "{text}");
    let own: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let shown = own.join("\n    ").replace("    \n", "\n");
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    assert!(
        readme.unwrap().contains(shown.trim()),
        "the README shows something else than:\n{shown}"
    );
    let file = file(TWO);
    let text = said(&["cloudflared", "--config", path(&file)]);
    let expected = [
        ["<HOSTNAME_APP>", "tcp://127.0.0.1:4000"],
        ["<HOSTNAME_REPORTS>", "tcp://[::1]:4001"],
        ["", "http_status:404"],
    ];
    assert_eq!(ingress(&text), expected);
    let text = said(&["cloudflared", "--config", path(&file), "--listener", "reports"]);
    assert_eq!(ingress(&text), [["<HOSTNAME>", "tcp://[::1]:4001"], ["", "http_status:404"]]);
    // Names that differ only in what a placeholder cannot have.
    let alike = TWO.replace("\"app\"", "\"a.b\"").replace("\"reports\"", "\"a-b\"");
    let hostnames = ingress(&said(&["cloudflared", "--config", path(&self::file(&alike))]));
    assert_eq!(hostnames[0][0], "<HOSTNAME_A_B>");
    assert_eq!(hostnames[1][0], "<HOSTNAME_A_B_2>");
    // The Access application is JSON.
    let json = text.split("--json '").nth(2).unwrap().split("}'").next().unwrap();
    let json = json.replace("\n#", "\n") + "}";
    let application: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(application["type"], "self_hosted");
    assert_eq!(application["policies"][0]["decision"], "non_identity");
}

#[test]
fn every_value_that_is_left_open_is_listed_at_the_end() {
    for (target, gateway) in [
        ("cloudflared", STARTER),
        ("hyperdrive", STARTER),
        ("hyperdrive", DEDICATED),
        ("aws-cli", STARTER),
        ("aws-cli", DEDICATED),
    ] {
        let folder = written(&[target, gateway]);
        for file in files(folder.path()) {
            let text = fs::read_to_string(&file).unwrap();
            let (before, list) = match text.split_once("Values that tidegate cannot know") {
                Some((before, list)) => (before, list),
                None => (text.as_str(), ""),
            };
            let listed = |line: &str| {
                let line = line.trim_start_matches(['#', '/']);
                let name = line.strip_prefix("   ")?.split(' ').next()?;
                (!name.is_empty()).then(|| name.trim_matches(['<', '>', '$']).to_owned())
            };
            let listed: BTreeSet<_> = list.lines().skip(1).filter_map(listed).collect();
            let is_script = text.starts_with("#!");
            let open: BTreeSet<_> = match is_script {
                true => words(before, "${", &[":?", ":-"]),
                false => &words(before, "<", &[">"]) | &words(before, "$", &["\""]),
            };
            assert_eq!(open, listed, "{}:\n{text}", file.display());
        }
    }
}

#[test]
fn scripts_are_shell_that_shellcheck_has_nothing_to_say_of() {
    for gateway in [STARTER, DEDICATED] {
        for target in ["hyperdrive", "aws-cli"] {
            let folder = written(&[target, gateway]);
            let scripts: Vec<_> = files(folder.path())
                .into_iter()
                .filter(|file| file.extension().is_some_and(|it| it == "sh"))
                .collect();
            assert_eq!(scripts.len(), if target == "hyperdrive" { 2 } else { 1 });
            for script in scripts {
                assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
                let parsed = Command::new("sh").arg("-n").arg(&script).output().unwrap();
                assert!(parsed.status.success(), "{parsed:?}");
                match Command::new("shellcheck").arg(&script).output() {
                    Ok(output) => assert!(output.status.success(), "{}", text(&output.stdout)),
                    Err(_) => skip("no shellcheck"),
                }
                // Without its values it does nothing.
                let run = Command::new("sh").arg(&script).env_clear().output().unwrap();
                assert_eq!(run.status.code(), Some(2), "{run:?}");
                assert!(text(&run.stderr).contains("see the end of this file"), "{run:?}");
            }
        }
    }
}

#[test]
fn the_endpoint_of_a_starter_gateway_is_made_in_order() {
    let aws = Aws::new(&["pending", "available"], STARTER);
    let (output, calls) = aws.run(&["aws-cli", STARTER], SERVICE, &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        text(&output.stdout)
            .contains(&format!("vpce-new is available; the gateway in this VPC is {STARTER}"))
    );
    assert_eq!(text(&output.stderr), "");
    let verbs: Vec<_> = calls.iter().map(|call| call.split("][").nth(1).unwrap()).collect();
    assert_eq!(
        verbs,
        [
            "describe-vpc-endpoint-services",
            "describe-subnets",
            "modify-vpc-attribute",
            "modify-vpc-attribute",
            "create-security-group",
            "authorize-security-group-ingress",
            "create-vpc-endpoint",
            "describe-vpc-endpoints",
            "describe-vpc-endpoints",
            "describe-vpc-endpoint-services",
        ]
    );
    assert!(calls.iter().all(|call| call.contains("[--region][us-east-1]")), "{calls:?}");
    for part in
        ["[--enable-dns-support][{\"Value\": true}]", "[--enable-dns-hostnames][{\"Value\": true}]"]
    {
        assert!(calls[2..4].iter().any(|call| call.contains(part)), "{calls:?}");
    }
    assert!(calls[5].contains(
        "[--group-id][sg-new][--protocol][tcp][--port][4000][--source-group][sg-clients]"
    ));
    for part in [
        "[--vpc-endpoint-type][Interface]",
        "[--subnet-ids][subnet-1][subnet-2]",
        "[--security-group-ids][sg-new]",
        "[--private-dns-enabled]",
        "[--service-name][com.amazonaws.vpce.us-east-1.vpce-svc-0]",
    ] {
        assert!(calls[6].contains(part), "no {part} in {}", calls[6]);
    }
}

#[test]
fn that_of_a_dedicated_cluster_waits_until_it_is_accepted() {
    let aws = Aws::new(
        &["pendingAcceptance", "pending", "available", "available"],
        "privatelink-8.abc.clusters.tidb-cloud.com",
    );
    let gateway = format!("{DEDICATED}:4100");
    let (output, calls) = aws.run(&["aws-cli", &gateway], SERVICE, &[("REGION", "us-east-1")]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("Enter vpce-new in TiDB Cloud"));
    // It says which name is the right one.
    assert!(
        text(&output.stderr).contains(&format!("configuration has {DEDICATED} instead")),
        "{output:?}"
    );
    let at = |what: &str| calls.iter().position(|call| call.contains(what)).unwrap();
    assert!(calls[at("[create-vpc-endpoint]")].contains("[--no-private-dns-enabled]"));
    let accepted =
        calls.iter().enumerate().filter(|(_, call)| call.contains("[describe-vpc-endpoints]"));
    assert_eq!(accepted.clone().count(), 4);
    let enabled = at("[modify-vpc-endpoint]");
    assert!(calls[enabled].contains("[--vpc-endpoint-id][vpce-new][--private-dns-enabled]"));
    assert_eq!(accepted.filter(|(number, _)| *number < enabled).count(), 3);
    assert!(calls[at("[authorize-security-group-ingress]")].contains("[--port][4100]"));
}

#[test]
fn nothing_is_made_where_it_could_not_work() {
    let aws = || Aws::new(&["available"], STARTER);
    for (service, zones, part) in [
        (
            "com.amazonaws.vpce.eu-west-1.vpce-svc-0",
            "use1-az1",
            "no endpoint service of AWS in us-east-1",
        ),
        ("projects/x/serviceAttachments/y", "use1-az1", "no endpoint service of AWS"),
        (SERVICE, "use1-az3", "the service has only use1-az1 use1-az2"),
    ] {
        let (output, calls) = aws().run(&["aws-cli", STARTER], service, &[("ZONES", zones)]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(part), "{output:?}");
        assert!(
            !calls.iter().any(|call| call.contains("[create-") || call.contains("[modify-")),
            "{calls:?}"
        );
    }
    // What was made before the endpoint is refused would be in the way of the next run.
    let (output, calls) = aws().run(&["aws-cli", STARTER], SERVICE, &[("CONFLICT", "1")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(calls.last().unwrap().contains("[delete-security-group]"), "{calls:?}");
    assert!(calls.last().unwrap().contains("[--group-id][sg-new]"), "{calls:?}");
    let aws = Aws::new(&["pending", "rejected"], STARTER);
    let (output, _) = aws.run(&["aws-cli", STARTER], SERVICE, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("vpce-new is rejected"), "{output:?}");
}

#[test]
fn hyperdrive_is_told_whose_certificate_it_sees_and_how_far_to_look_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for args in [
        &["own.example.com"][..],
        &["--ca", "signed.example.com"],
        &["--ca", "--force", "10.0.0.1"],
    ] {
        let made =
            run(&[&["certificate", "--out", folder.path().to_str().unwrap()], args].concat());
        assert!(made.status.success(), "{made:?}");
    }
    let tls = |certificate: &str| {
        format!("client_tls = \"required\"\ntls_cert = \"{certificate}\"\ntls_key = \"k\"\n")
    };
    for (gateway, listener, reached, why) in [
        (
            STARTER,
            "".to_owned(),
            "--ipv4 127.0.0.1 --cert-verification-mode verify_ca\n",
            "Let's Encrypt",
        ),
        (
            DEDICATED,
            "".into(),
            "--ipv4 127.0.0.1 --cert-verification-mode disabled\n",
            "none of those that",
        ),
        (
            "10.0.0.9",
            "".into(),
            "--ipv4 127.0.0.1 --cert-verification-mode verify_ca\n",
            "error 2012",
        ),
        (
            STARTER,
            tls(&at("own.example.com.crt")),
            "--ipv4 127.0.0.1 --cert-verification-mode disabled\n",
            "signed itself",
        ),
        (
            STARTER,
            tls(&at("signed.example.com.crt")),
            "--hostname signed.example.com --cert-verification-mode verify_full\n",
            "tls_cert's",
        ),
        (
            STARTER,
            tls(&at("10.0.0.1.crt")),
            "--ipv4 127.0.0.1 --cert-verification-mode verify_ca\n",
            "no name that could be",
        ),
        (
            STARTER,
            tls("/elsewhere.crt"),
            "--hostname \"$CERTIFICATE_NAME\" --cert-verification-mode verify_full\n",
            "CERTIFICATE_NAME  a DNS",
        ),
    ] {
        let config = format!(
            "[[listener]]\nbind = \"127.0.0.1:4000\"\n{listener}[upstream.x]\ngateway = \"{gateway}\"\n{}",
            if listener.is_empty() { "" } else { "upstream_tls = \"required\"\n" },
        );
        let file = file(&config);
        let folder = written(&["hyperdrive", "--config", path(&file)]);
        let script = fs::read_to_string(folder.path().join("vpc.sh")).unwrap();
        assert!(script.contains(reached), "no {reached} in:\n{script}");
        assert!(script.contains(why), "no {why} in:\n{script}");
        assert!(script.contains("--type tcp --tcp-port 4000 --app-protocol mysql"), "{script}");
    }
}

#[test]
fn hyperdrives_routes_and_its_worker_are_what_cloudflare_asks_for() {
    let folder = written(&["hyperdrive", STARTER, "--listen", "10.0.0.8:4005", "--allow-any"]);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let access = read("access.sh");
    assert!(!access.contains("port "), "{access}");
    for part in [
        "--host \"$TUNNEL_HOSTNAME\" --scheme mysql",
        "--access-client-id",
        "--access-client-secret",
        "PREFIX.USER",
    ] {
        assert!(access.contains(part), "no {part} in:\n{access}");
    }
    let vpc = read("vpc.sh");
    assert!(vpc.contains("--tcp-port 4005") && vpc.contains("--ipv4 10.0.0.8"), "{vpc}");
    assert!(vpc.contains("--service-id \"$SERVICE_ID\" --scheme mysql"), "{vpc}");
    // Strict JSON, but for the comments.
    let binding = read("wrangler.jsonc");
    let lines: String =
        binding.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let binding: serde_json::Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(binding["hyperdrive"][0]["binding"], "HYPERDRIVE");
    assert_eq!(binding["main"], "worker.js");
    let worker = read("worker.js");
    for property in ["host", "port", "user", "password", "database"] {
        assert!(worker.contains(&format!("{property}: env.HYPERDRIVE.{property},")), "{worker}");
    }
    assert!(worker.contains("disableEval: true"));
    // Printed, they are told apart.
    let said = said(&["hyperdrive", STARTER]);
    let heads: Vec<_> = said.lines().filter(|line| line.starts_with("==> ")).collect();
    assert_eq!(
        heads,
        ["==> vpc.sh <==", "==> access.sh <==", "==> wrangler.jsonc <==", "==> worker.js <=="]
    );
}

#[test]
fn what_cannot_work_is_refused_with_what_could() {
    let two = file(TWO);
    let two = path(&two);
    let one = |listener: &str, upstream: &str| {
        file(&format!(
            "[[listener]]\nname = \"app\"\n{listener}\n[upstream.x]\ngateway = \"10.0.0.1\"\n{upstream}"
        ))
    };
    let plain = one("", "upstream_tls = \"required\"");
    let socket = one("bind = \"unix:/run/x.sock\"", "");
    let any = one("bind = \"127.0.0.1:0\"", "");
    let denied = one("deny = [\"127.0.0.0/8\"]", "");
    let allowed = one("allow = [\"10.0.0.0/8\"]", "");
    let proxy = one("proxy_protocol_from = [\"127.0.0.1/32\"]", "");
    for (args, code, part) in [
        (&["aws-cli", "10.0.0.1"][..], 78, "`10.0.0.1:4000` is of no service that is known"),
        (
            &["aws-cli", "db.x.us-east-1.rds.amazonaws.com"],
            78,
            "is Amazon RDS, not one of TiDB Cloud on AWS",
        ),
        (
            &["aws-cli", "ep-1.epsrv-1.ap-southeast-1.privatelink.aliyuncs.com"],
            78,
            "on Alibaba Cloud, not one of",
        ),
        (&["aws-cli", "--config", two], 2, "--listener NAME chooses one of `app`, `reports`"),
        (&["hyperdrive", "--config", two], 2, "--listener NAME"),
        (&["hyperdrive", "--config", two, "--listener", "apps"], 2, "it has `app`, `reports`"),
        (&["hyperdrive", "--config", path(&plain)], 78, "offered no TLS"),
        (&["hyperdrive", "--config", path(&socket)], 78, "`app` has no TCP address"),
        (&["cloudflared", "--config", path(&socket)], 78, "`app` has no TCP address"),
        (&["cloudflared", "--config", path(&any)], 78, "port 0"),
        (&["cloudflared", "--config", path(&denied)], 78, "take 127.0.0.1 out of it"),
        (&["cloudflared", "--config", path(&allowed)], 78, "add 127.0.0.1 to it"),
        (&["cloudflared", "--config", path(&proxy)], 78, "cloudflared sends no PROXY header"),
        (&["cloudflared"], 2, "gateway"),
        (&["cloudflared", STARTER, "--force"], 2, "--out"),
        (
            &["cloudflared", STARTER, "--out", "/dev/null/folder"],
            1,
            "cannot write /dev/null/folder",
        ),
    ] {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: no `{part}` in:\n{said}");
        assert_eq!(text(&output.stdout), "");
    }
}

/// As in the README: `--out hyperdrive`, where nobody has made it.
#[test]
fn a_folder_that_is_not_there_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/hyperdrive");
    let output = run(&["hyperdrive", STARTER, "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files(&out).len(), 4);
}

#[test]
fn nothing_is_written_over_unless_it_is_meant() {
    let folder = written(&["hyperdrive", STARTER]);
    let out = folder.path().to_str().unwrap();
    fs::write(folder.path().join("worker.js"), "mine").unwrap();
    fs::remove_file(folder.path().join("vpc.sh")).unwrap();
    let output = run(&["hyperdrive", STARTER, "--out", out]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is there already\nhint: --force"), "{output:?}");
    assert!(!folder.path().join("vpc.sh").exists());
    assert_eq!(fs::read_to_string(folder.path().join("worker.js")).unwrap(), "mine");
    let output = run(&["hyperdrive", STARTER, "--out", out, "--force"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains(&format!("wrote {out}/worker.js\n")));
    assert_ne!(fs::read_to_string(folder.path().join("worker.js")).unwrap(), "mine");
}

const SERVICE: &str = "com.amazonaws.vpce.us-east-1.vpce-svc-0";

/// A stand-in for the command line of AWS, which writes down how it was called.
struct Aws {
    folder: TempDir,
}

impl Aws {
    /// With an endpoint that is in these states, one after the other, and a service of that name.
    fn new(states: &[&str], name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("states"), states.join("\n") + "\n").unwrap();
        fs::write(at("calls"), "").unwrap();
        let here = folder.path().display();
        let aws = format!(
            "#!/bin/sh\nprintf '[%s]' \"$@\" >>{here}/calls\necho >>{here}/calls\n\
             case \"$*\" in\n\
             *AvailabilityZoneIds*) printf 'use1-az1\\tuse1-az2\\n' ;;\n\
             *PrivateDnsName*) echo {name} ;;\n\
             *describe-subnets*) echo \"${{ZONES:-use1-az2}}\" ;;\n\
             *create-security-group*) echo sg-new ;;\n\
             *create-vpc-endpoint*) [ -z \"${{CONFLICT:-}}\" ] || exit 254; echo vpce-new ;;\n\
             *describe-vpc-endpoints*) head -n 1 {here}/states; sed -i 1d {here}/states ;;\n\
             esac\n"
        );
        for (name, text) in [("aws", aws.as_str()), ("sleep", "#!/bin/sh\n")] {
            let written = at("program");
            fs::write(&written, text).unwrap();
            copy_program(&written, &at(name));
        }
        Self { folder }
    }

    /// Runs what is rendered, and says what it called.
    fn run(&self, args: &[&str], service: &str, also: &[(&str, &str)]) -> (Output, Vec<String>) {
        let script = said(args);
        let path = format!("{}:{}", self.folder.path().display(), env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).env("PATH", path).envs(also.iter().copied());
        shell.env("VPC_ID", "vpc-1").env("SUBNET_IDS", "subnet-1 subnet-2");
        shell.env("SERVICE_NAME", service).env("CLIENT_SECURITY_GROUP_ID", "sg-clients");
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let calls = fs::read_to_string(self.folder.path().join("calls")).unwrap();
        (output, calls.lines().map(str::to_owned).collect())
    }
}

/// The rules of a config.yml: hostname and service.
fn ingress(text: &str) -> Vec<[String; 2]> {
    let mut scalars = Vec::new();
    for event in Parser::new_from_str(text) {
        if let Event::Scalar(text, ..) = event.unwrap().0 {
            scalars.push(text.into_owned());
        }
    }
    let at = scalars.iter().position(|scalar| scalar == "ingress").unwrap();
    let mut rules = Vec::new();
    let mut hostname = String::new();
    for pair in scalars[at + 1..].chunks(2) {
        match pair[0].as_str() {
            "hostname" => hostname = pair[1].clone(),
            "service" => rules.push([std::mem::take(&mut hostname), pair[1].clone()]),
            other => panic!("what is {other}?"),
        }
    }
    rules
}

/// Names in capitals between `before` and one of `after`.
fn words(text: &str, before: &str, after: &[&str]) -> BTreeSet<String> {
    let legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let parts = text.split(before).skip(1).filter_map(|rest| {
        let end = rest.find(|c| !legal(c))?;
        let is_closed = after.iter().any(|after| rest[end..].starts_with(after));
        (end > 0 && is_closed).then(|| rest[..end].to_owned())
    });
    parts.collect()
}

fn written(args: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&[args, &["--out", folder.path().to_str().unwrap()]].concat());
    assert!(output.status.success(), "{args:?}: {output:?}");
    folder
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn said(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    text(&output.stdout)
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("render").args(args).output().unwrap()
}

fn file(toml: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Says so; where everything is installed, nothing is skipped.
fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped in CI: {why}");
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
