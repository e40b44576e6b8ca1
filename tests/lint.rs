//! `tidegate lint`: each rule on what breaks it and on what keeps it, and files that nobody meant well.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tidegate::lint::{Report, Source, lint};

#[test]
fn the_guide_has_six_mistakes() {
    let guide = "tests/guide/guide.md";
    let output = tidegate(&["lint", "--json", guide]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["files"], 1);
    let found: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
    let rules: Vec<_> = found
        .iter()
        .map(|finding| {
            assert_eq!(finding["file"], guide);
            (finding["line"].as_u64().unwrap(), finding["rule"].as_str().unwrap())
        })
        .collect();
    let expected = [
        (10, "vpc-endpoint-flags"),
        (29, "ingress-catch-all"),
        (29, "tunnel-hostname"),
        (37, "hyperdrive-origin"),
        (37, "dsn-sslaccept"),
        (56, "worker-query"),
    ];
    assert_eq!(rules, expected);
    // The same for people, and the password for nobody.
    let output = tidegate(&["lint", guide]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    for (line, rule) in expected {
        assert!(said.contains(&format!("{guide}:{line}: {rule}: ")), "{said}");
    }
    assert!(said.ends_with("6 findings in 1 file\n"), "{said}");
    assert_eq!(text(&output.stderr), "");
    assert!(!said.contains("hunter2"), "{said}");
    let shown: String = said.lines().map(|line| format!("    {line}\n")).collect();
    assert!(readme().contains(&shown), "the README shows something else than:\n{shown}");
}

/// A file's name, what is in it, and what is found: rules with their lines.
type Case = (&'static str, &'static str, &'static [(&'static str, usize)]);

#[rustfmt::skip]
const PLANTED: &[Case] = &[
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: tcp://127.0.0.1:4000\n", &[("ingress-catch-all", 2)]),
    ("config.yml", "ingress: []\n", &[("ingress-catch-all", 1)]),
    ("config.yml", "ingress:\n  - path: x\n    service: http_status:404\n", &[("ingress-catch-all", 2)]),
    ("config.yml", "ingress:\n  - service: http_status:404\n  - hostname: '*'\n    service: http_status:404\n", &[("ingress-order", 2)]),
    ("config.yml", "ingress:\n  - hostname: a.b:4000\n    service: tcp://h:1\n  - hostname: a.*.b\n    service: tcp://h:1\n  - service: http_status:404\n", &[("ingress-hostname", 2), ("ingress-hostname", 4)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: 127.0.0.1:4000\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: tcp://127.0.0.1\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: 'tcp://'\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: tcp://[::1]\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: tcp://h:4000/db\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: http://127.0.0.1:8080/app\n  - hostname: b.c\n    service: ssh://h/\n  - service: http_status:404\n", &[("ingress-service", 3), ("ingress-service", 5)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: http_status:abc\n  - hostname: b.c\n    service: http_status:1000\n  - service: 'http_status:'\n", &[("ingress-service", 3), ("ingress-service", 5), ("ingress-service", 6)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: http://127.0.0.1:4000\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: mysql://127.0.0.1:4000\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: unix:/run/tidegate/app.sock\n  - service: http_status:404\n", &[("ingress-service", 3)]),
    ("config.yml", "ingress:\n  - hostname: a.b\n  - service: http_status:404\n", &[("ingress-service", 2)]),
    ("config.yml", "ingress:\n  - hostname: [a\n", &[("syntax", 3)]),
    ("config.yml", "# cloudflared tunnel create x\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n", &[("tunnel-hostname", 3)]),
    ("config.yml", "# cloudflared tunnel route dns x a.c\n# an Access application\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n", &[("tunnel-hostname", 4)]),
    ("guide.md", "TiDB Self-Hosted gives access. Access → Service Auth → Create Service Token.\n```sh\ncloudflared tunnel route dns x a.b\n```\n```yaml\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n```\n", &[("tunnel-hostname", 7)]),
    ("config.yml", "# npx wrangler vpc service list\nprotocol: http2\ningress:\n  - service: http_status:404\n", &[("tunnel-quic", 2)]),
    ("set-up.sh", "wrangler hyperdrive create x --service-id 1 --scheme mysql\ncloudflared tunnel --protocol http2 run x\n", &[("tunnel-quic", 2)]),
    ("set-up.sh", "npx wrangler hyperdrive create x --scheme mysql \\\n  --host gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com\n", &[("hyperdrive-origin", 2)]),
    ("set-up.sh", "wrangler hyperdrive create x --scheme=mysql --origin-host=10.0.0.4 --origin-port=4000\n", &[("hyperdrive-origin", 1)]),
    ("set-up.sh", "wrangler hyperdrive update 1 --host localhost\n", &[("hyperdrive-origin", 1)]),
    ("set-up.sh", "x=$(wrangler hyperdrive create x --connection-string=\"mysql://u:p@10.1.2.3:4000/d\")\n", &[("hyperdrive-origin", 1)]),
    ("set-up.sh", "wrangler hyperdrive create x --host t.example.com --access-client-id $ID \\\n  --access-client-secret $S --scheme mysql --port 4000\n", &[("hyperdrive-port", 2)]),
    ("set-up.sh", "wrangler hyperdrive create x --host t.example.com:4000 --access-client-id $ID --scheme mysql\n", &[("hyperdrive-port", 1)]),
    ("set-up.sh", "wrangler hyperdrive create x --connection-string $DSN --access-client-id $ID --access-client-secret $S\n", &[("hyperdrive-port", 1)]),
    ("set-up.sh", "wrangler hyperdrive create x --service-id $ID\n", &[("hyperdrive-scheme", 1)]),
    ("set-up.sh", "wrangler hyperdrive create \"$NAME\" --host \"$H\" --user \"$U\" >> $LOG\n", &[("hyperdrive-scheme", 1)]),
    ("set-up.sh", "wrangler hyperdrive create x --scheme mysql --service-id $ID --port 4000\n", &[("hyperdrive-service", 1)]),
    ("set-up.sh", "wrangler hyperdrive create x --scheme mysql --service-id $ID --sslmode REQUIRED\n", &[("hyperdrive-service", 1)]),
    ("set-up.sh", "wrangler hyperdrive create x --scheme mysql --host gateway01.us-east-1.prod.aws.tidbcloud.com --port 4000 --user root\n", &[("dsn-prefix", 1)]),
    ("set-up.sh", "wrangler vpc service create x --type http --http-port 4000 --tunnel-id $T --ipv4 10.0.0.1\n", &[("vpc-service", 1)]),
    ("set-up.sh", "wrangler vpc service create x --type tcp --app-protocol mysql --tunnel-id $T --hostname db\n", &[("vpc-service", 1)]),
    ("set-up.sh", "wrangler vpc service create x --type tcp --tcp-port 4000 --tunnel-id $T \\\n  --ipv4 127.0.0.1\n", &[("vpc-service-name", 2)]),
    ("wrangler.toml", "# wrangler vpc service create x --type tcp --hostname db:4000\nname = \"x\"\n", &[("vpc-service", 1)]),
    ("set-up.sh", "mkdir x\ncat > config.yml <<EOF\ningress:\n  - hostname: a.b\n    service: tcp://h:1\nEOF\nls\n", &[("ingress-catch-all", 4)]),
    ("set-up.sh", "sudo tee /etc/cloudflared/config.yml >/dev/null \\\n  <<'EOF'\ningress:\n  - hostname: a.b\n    service: tcp://h:1\nEOF\n", &[("ingress-catch-all", 4)]),
    ("set-up.sh", "cat <<EOF >\"$CONFIG\"\ntunnel: $ID\ningress:\n  - hostname: a.b\n    service: tcp://h:1\nEOF\n", &[("ingress-catch-all", 4)]),
    ("guide.md", "# a\n\n```\ncat >config.yml<<-EOF\n	ingress:\n	  - hostname: a.b\n	    service: tcp://h:1\nEOF\n```\n", &[("ingress-catch-all", 6)]),
    ("set-up.sh", "cat > wrangler.toml <<'EOF'\nname = \"x\"\n[[hyperdrive]]\nbinding = \"X\"\nid = \"1\"\nEOF\ncat > wrangler.json <<'EOF'\n{\"hyperdrive\": [}, compatibility_\nEOF\n", &[("wrangler-nodejs-compat", 3), ("syntax", 8)]),
    ("set-up.sh", "cat > src/index.ts <<EOF\nconst a = \\`\\${x}\\`;\nenv.HYPERDRIVE.query('x');\nEOF\n", &[("worker-query", 3)]),
    ("guide.md", "Text.\n\nVPC bindings are HTTP only.\n", &[("vpc-not-http-only", 3)]),
    ("guide.md", "Workers VPC: only HTTP.\nA VPC service is HTTP-only.\n", &[("vpc-not-http-only", 1), ("vpc-not-http-only", 2)]),
    ("guide.md", "- one\n  ```sh\n  aws ec2 create-vpc-endpoint --service-name com.amazonaws.vpce.us-east-1.vpce-svc-0\n  ```\n", &[("vpc-endpoint-flags", 3)]),
    ("guide.md", "~~~\naws ec2 create-vpc-endpoint --vpc-endpoint-type Interface --security-group-ids sg-1\n", &[("vpc-endpoint-flags", 2)]),
    (".env", "DATABASE_URL=\"mysql://a.u:p@ss@h:1/d\"\n", &[("dsn-format", 1)]),
    (".env", "\nexport WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING_X='mysql://u:p@h:1/d?sslaccept=strict'\n", &[("dsn-sslaccept", 2)]),
    ("dsn", "mysql://root:p@gateway01.us-east-1.prod.aws.tidbcloud.com/d?ssl-mode=DISABLED", &[("dsn-port", 1), ("dsn-prefix", 1), ("dsn-tls", 1)]),
    ("dsn", "mysql://u:p@tidb.abc.clusters.tidb-cloud.com/d", &[("dsn-port", 1)]),
    ("notes.txt", "see mysql://root:p@gateway01.us-east-1.prod.aws.tidbcloud.com:4000/d", &[("dsn-prefix", 1)]),
    ("wrangler.toml", "compatibility_date = \"2025-01-01\"\ncompatibility_flags = [\"nodejs_compat\"]\n[[hyperdrive]]\nbinding = \"X\"\n", &[("wrangler-binding", 3)]),
    ("wrangler.toml", "compatibility_flags = [\"nodejs_compat\"]\n[hyperdrive]\nid = \"1\"\n", &[("wrangler-binding", 2)]),
    ("guide.md", "```toml\nname = \"worker\"\n[[hyperdrive]]\nbinding = \"X\"\nid = \"1\"\n```\n", &[("wrangler-nodejs-compat", 3)]),
    ("wrangler.toml", "hyperdrive = \n", &[("syntax", 1)]),
    ("wrangler.jsonc", "{\n  // a comment\n  \"hyperdrive\": [{\"binding\": \"X\", \"id\": \"1\"}],\n}\n", &[("wrangler-nodejs-compat", 3)]),
    ("wrangler.jsonc", "{\"compatibility_flags\": [\"nodejs_compat\"],\n\"compatibility_date\": \"2024-01-01\",\n\"env\": {\"a\": {\"hyperdrive\": [{\"binding\": \"X\", \"id\": \"1\"}]}}}\n", &[("wrangler-nodejs-compat", 2)]),
    ("wrangler.json", "{\"hyperdrive\": [}", &[("syntax", 1)]),
    ("worker.ts", "// env.HYPERDRIVE.query(\nconst x = await env.HYPERDRIVE!\n  .prepare(\"a\");\n", &[("worker-query", 3)]),
    ("worker.js", "import { createConnection } from 'mysql2/promise';\nconst c = await createConnection({\n host: env.HYPERDRIVE.host, disableEval: false });\n", &[("worker-disable-eval", 2)]),
    ("worker.js", "import m from 'mysql2/promise';\nconst c = await m.createConnection({ host: env.HYPERDRIVE.host, disableEval: true,\n multipleStatements: true });\nawait c.execute('SELECT ?', [1]);\n", &[("worker-multiple-statements", 3), ("worker-execute", 4)]),
    ("worker.ts", "const a = await env.HYPERDRIVE.query<Row[]>(\"a\");\nconst b = await c.env?.[\"HYPERDRIVE\"].query('b');\nenv['HYPERDRIVE']!.batch<Map<string, () => void>>(x);\n", &[("worker-query", 1), ("worker-query", 2), ("worker-query", 3)]),
    ("worker.ts", "import m from 'mysql2/promise';\nasync function list(connection: m.Connection) {\n await connection.execute<RowDataPacket[]>('a');\n}\nconst db: m.Pool | undefined = m.createPool({ host: env.HYPERDRIVE.host, disableEval: true });\nawait db!.execute('b');\nconst c = await db.getConnection();\nc.execute('c');\nthis.sql ??= m.createPool(x);\nthis.sql.execute('d');\ndb.promise().execute('e');\n", &[("worker-execute", 3), ("worker-execute", 6), ("worker-execute", 8), ("worker-execute", 10), ("worker-execute", 11)]),
    ("index.ts", "new cloudflare.HyperdriveConfig(\"x\", { origin: {\n  host: \"gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com\", port: 4000 } });\n", &[("hyperdrive-origin", 2)]),
];

#[test]
fn every_rule_finds_what_breaks_it() {
    let mut shown = BTreeSet::new();
    for (name, text, expected) in PLANTED {
        let report = lint(&[Source::new(name, text)]);
        let found: Vec<_> =
            report.findings.iter().map(|finding| (finding.rule.as_str(), finding.line)).collect();
        assert_eq!(found, *expected, "{name}:\n{text}\n{report}");
        shown.extend(found.into_iter().map(|(rule, _)| rule));
    }
    // The README has a line for each, and no other.
    let readme = readme();
    let chapter = readme.split("## Linting").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = chapter.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    assert_eq!(names.collect::<BTreeSet<_>>(), shown);
}

/// What works, and what is nobody's business here.
#[rustfmt::skip]
const CLEAN: &[(&str, &str)] = &[
    ("config.yml", "tunnel: x\ningress:\n  - hostname: '*.a.b'\n    service: tcp://[::1]:4000\n  - hostname: b.c\n    path: /x\n    service: http://localhost:8080\n  - hostname: c.d\n    service: unix:/run/web.sock\n  - service: hello_world\n"),
    ("config.yml", "# no command: the DNS route may be made elsewhere\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n"),
    ("config.yml", "ingress:\n  - hostname: a.b\n    service: http://h:1?x=/\n  - hostname: b.c\n    service: http://${HOST:-a/b}:1\n  - service: http_status:$CODE\n"),
    ("config.yml", "# cloudflared tunnel route dns -f x a.b >/dev/null 2>&1\n# cloudflared tunnel route dns x c.d makes the record\n# an Access application\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - hostname: c.d\n    service: tcp://h:1\n  - service: http_status:404\n"),
    ("guide.md", "Zero Trust: **Access** → **Applications** → Add an application → Self-hosted, with a policy Service Auth.\n```sh\ncloudflared tunnel route dns x a.b\n```\n```yaml\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n```\n"),
    ("guide.md", "1. Add an application\n   - *Self-hosted*\n```sh\ncloudflared tunnel route dns x a.b\n```\n```yaml\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n```\n"),
    ("config.yml", "tunnel: x\ncredentials-file: y\n"),
    ("config.yml", "protocol: http2\ningress:\n  - service: http_status:404\n"),
    ("config.yml", "a: &name a.b\nb: &origin tcp://h:1\ningress:\n  - hostname: *name\n    service: *origin\n  - hostname: b.c\n    service: <ORIGIN>\n  - service: http_status:404\n"),
    ("config.yml", "# cloudflared tunnel --config FILE run\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n"),
    ("config.yml", "# cloudflared tunnel create x\n# an Access application, and a CNAME to <id>.cfargotunnel.com\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\n"),
    ("compose.yml", "services: {a: [b\n"),
    ("ingress.yaml", "kind: Ingress\nspec:\n  rules: []\ningress: {}\n"),
    ("set-up.sh", "wrangler hyperdrive create x --connection-string 'postgres://u:p@10.0.0.1/d'\n"),
    ("set-up.sh", "wrangler hyperdrive create x --connection-string \"mysql://a.u:p@gateway01.us-east-1.prod.aws.tidbcloud.com:4000/d\"\n"),
    ("set-up.sh", "wrangler hyperdrive create x --connection-string=\"mysql://user:password@host:port/database\"\nwrangler hyperdrive create x --host db.example.com --port 5432\n"),
    ("set-up.sh", "wrangler hyperdrive update 1 --service-id $ID\nwrangler hyperdrive create x --scheme mysql --service-id $ID\n"),
    ("set-up.sh", "wrangler vpc service create x --type tcp --tcp-port 5432 --app-protocol postgresql --tunnel-id $T --ipv4 10.0.0.5\n"),
    ("set-up.sh", "wrangler vpc service create x --type tcp --hostname db.example.com:4000 --tunnel-id $T\nwrangler vpc service create x --type http --tunnel-id $T --hostname web\n"),
    ("set-up.sh", "cloudflared tunnel create x # an Access application\ncloudflared tunnel route dns x $NAME\n"),
    ("set-up.sh", "aws ec2 create-vpc-endpoint --vpc-endpoint-type Gateway --service-name com.amazonaws.us-east-1.s3\naws ec2 create-vpc-endpoint --service-name com.amazonaws.us-east-1.s3\n"),
    ("set-up.sh", "aws ec2 create-vpc-endpoint --service-name $S --vpc-endpoint-type Interface --security-group-ids sg-1 --no-private-dns-enabled\naws ec2 modify-vpc-endpoint --vpc-endpoint-id $E --private-dns-enabled\n"),
    ("guide.md", "```sh\naws ec2 create-vpc-endpoint --service-name $S --vpc-endpoint-type Interface --security-group-ids sg-1\n```\nWhen it is accepted:\n```sh\naws ec2 modify-vpc-endpoint --vpc-endpoint-id $E --private-dns-enabled\n```\n"),
    ("guide.md", "```sh\naws ec2 create-vpc-endpoint --service-name $S --vpc-endpoint-type Interface --security-group-ids sg-1\n```\nIn the console: **Modify private DNS name**.\n"),
    ("set-up.sh", "aws ec2 create-vpc-endpoint \"${args[@]}\"\naws ec2 create-vpc-endpoint --service-name \"$S\" --private-dns-enabled $COMMON\n"),
    ("set-up.sh", "wrangler vpc service create tidb \"${FLAGS[@]}\"\nwrangler vpc service create tidb --type tcp --ipv4 10.0.0.1 $FLAGS\nwrangler vpc service create tidb --type \"$TYPE\" --hostname db\n"),
    ("set-up.sh", "wrangler hyperdrive create t --host \"$H\" $COMMON\nwrangler hyperdrive create t --service-id \"$ID\" \"$@\"\n"),
    ("set-up.sh", "cat > config.yml <<EOF\ningress:\n  - hostname: a.b\n    service: tcp://h:1\nEOF\nfor x in $Y; do echo \"  - $x\" >> config.yml; done\n"),
    ("set-up.sh", "cat > config.yml <<EOF\ningress:\n  - hostname: a.b\n    service: tcp://h:1\nEOF\ncat <<EOF | sudo tee -a ./config.yml\n  - service: http_status:404\nEOF\n"),
    ("set-up.sh", "cat > config.yml <<EOF\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n$MORE\nEOF\n"),
    ("set-up.sh", "cat > config.yml <<EOF\ningress:\n  - hostname: a.b\n    service: tcp://h:1\n  - service: http_status:404\nEOF\ncat > wrangler.toml <<EOF\ncompatibility_date = $DATE\n[[hyperdrive]]\nid = $ID\nEOF\n"),
    ("set-up.sh", "{ cat <<EOF\ningress:\n  - hostname: a.b\n    service: tcp://h:1\nEOF\nrest; } > config.yml\ncat > notes.txt <<EOF\nwrangler vpc service create x --ipv4 h\nEOF\n"),
    ("set-up.sh", "cat > src/index.ts <<EOF\nconst a = \\`\\${x}\\`;\nimport m from 'mysql2';\nm.createPool({ host: env.HYPERDRIVE.host, disableEval: true });\nEOF\n"),
    ("set-up.sh", "cloudflared tunnel route dns x a.b # an Access application\ncat > config.yml <<EOF\ningress:\n  - hostname: $HOSTNAME\n    service: tcp://$ORIGIN\n  - service: http_status:404\nEOF\n"),
    ("set-up.sh", "cat > wrangler.toml <<EOF\ncompatibility_date = \"$(date +%F)\"\ncompatibility_flags = [\"nodejs_compat\"]\n[[hyperdrive]]\nbinding = \"X\"\nid = \"$ID\"\nEOF\n"),
    ("set-up.sh", "cat >config.yml <<EOF\ningress:\n  - hostname: a.b\n    service: tcp://h:1\nEOF\ncat >>config.yml<<EOF\n  - service: http_status:404\nEOF\n"),
    ("set-up.sh", "echo 'aws ec2 create-vpc-endpoint --service-name x'\ncat <<END\naws ec2 create-vpc-endpoint\nEND\n"),
    ("guide.md", "Workers VPC is not HTTP only any more. `env.HYPERDRIVE.query()` is in no block.\n```\nplain\n```\n"),
    ("guide.md", "See (mysql://u:p@h:4000), <mysql://u:p@h:4000>, `x`; mysql://u:p@h:4000. And mysql://DB_USER:PASSWORD@gateway01.us-east-1.prod.aws.tidbcloud.com:PORT/DATABASE.\n```toml\n[[hyperdrive]]\nbinding = \"X\"\nid = \"1\"\n```\n"),
    ("notes.txt", "{\\\"url\\\": \\\"mysql://u:p@h:4000\\\"}"),
    (".env", "DATABASE_URL=mysql://a.u:p%40ss@gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com:4000/d?sslaccept=strict\n"),
    ("dsn", "mysql://a.u:p@gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com:4000/d"),
    ("dsn", "mysql://${USER}:${PASSWORD}@${HOST}/${DATABASE}"),
    ("wrangler.toml", "compatibility_date = 2025-01-01\ncompatibility_flags = [\"nodejs_compat\"]\n[[env.a.hyperdrive]]\nbinding = \"X\"\nid = \"1\"\n"),
    ("wrangler.toml", "name = \"no hyper drive\"\n"),
    ("wrangler.toml", "# The id is printed by\n# wrangler vpc service create\n# npx wrangler vpc service create -- once\n# aws ec2 create-vpc-endpoint\nname = \"x\"\n"),
    ("set-up.sh", "# Security group of the VPC endpoint: HTTP only from the office.\n# The VPC endpoint service's group: HTTP only.\n# HTTP only inside the VPC.\n"),
    ("package.json", "{\"name\": [}"),
    ("worker.js", "const s = 'env.HYPERDRIVE.query(';\nclient.query(env.HYPERDRIVE.connectionString);\nenv.DB.prepare('x');\n"),
    ("worker.js", "import m from 'mysql2/promise';\nconst c = await m.createConnection({ host: env.HYPERDRIVE.host, \"disableEval\": true });\n"),
    ("worker.js", "import m from 'mysql2/promise';\nconst c = await m.createConnection({ host: env.HYPERDRIVE.host, disableEval: isWorker });\nconst d = await m.createConnection({ host: env.HYPERDRIVE.host, disableEval });\n"),
    ("worker.js", "import m from 'mysql2/promise';\nconst HYPERDRIVE = await m.createConnection({ host: env.HYPERDRIVE.host, disableEval: true });\nHYPERDRIVE.query('x');\nHYPERDRIVE < b > (c);\ncmd.execute();\ncommand().execute();\nconst run = () => m.createPool(x);\nrun.execute();\n"),
    ("worker.js", "process.env.HYPERDRIVE.query('x');\nimport.meta.env.HYPERDRIVE.query('x');\nenv.HYPERDRIVE.query < a;\n"),
    ("worker.js", "import { createConnection } from 'mysql2/promise';\ncreateConnection({ host: env.OTHER });\nx.execute();\n"),
    ("worker.js", "import { drizzle } from 'drizzle-orm/mysql2';\nimport { createConnection } from 'mysql2';\ncreateConnection({ host: env.HYPERDRIVE.host, disableEval: true });\ndb.execute(sql`x`);\n"),
    ("worker.js", "import { Kysely, MysqlDialect } from 'kysely';\nimport { createPool } from 'mysql2';\ncreatePool({ host: env.HYPERDRIVE.host, disableEval: true });\ndb.selectFrom('x').execute();\n"),
];

#[test]
fn what_works_is_left_alone() {
    for (name, text) in CLEAN {
        let report = lint(&[Source::new(name, text)]);
        assert_eq!(report.findings, [], "{name}:\n{text}");
    }
}

#[test]
fn files_are_looked_at_together() {
    let config = Source::new(
        "config.yml",
        "ingress:\n  - hostname: db.example.com\n    service: tcp://h:1\n  - service: http_status:404\n",
    );
    let rules = |sources: &[Source]| -> Vec<_> {
        lint(sources).findings.iter().map(|finding| finding.rule.as_str()).collect()
    };
    assert_eq!(rules(std::slice::from_ref(&config)), [""; 0]);
    let script = |text: &str| Source::new("set-up.sh", text);
    let create = script("cloudflared tunnel create x\n");
    assert_eq!(rules(&[config.clone(), create.clone()]), ["tunnel-hostname"]);
    let route = script("cloudflared tunnel route dns x db.example.com\ncurl $API/access/apps\n");
    assert_eq!(rules(&[config.clone(), route]), [""; 0]);
    // Workers VPC goes by no hostname.
    let vpc = script("wrangler hyperdrive create x --scheme mysql --service-id $ID\n");
    assert_eq!(rules(&[config, create, vpc]), [""; 0]);
    // A Worker's binding is called what wrangler's configuration calls it.
    let worker = Source::new("worker.js", "await env.DATABASE.query('x');");
    assert_eq!(rules(std::slice::from_ref(&worker)), [""; 0]);
    let named = Source::new(
        "wrangler.toml",
        "compatibility_flags = ['nodejs_compat']\n[[hyperdrive]]\nbinding = 'DATABASE'\nid = '1'\n",
    );
    assert_eq!(rules(&[named.clone(), worker]), ["worker-query"]);
    // What has the same name is something else.
    let driver = "import mysql from 'mysql2/promise';\n\
                  const DATABASE = await mysql.createConnection({ ...options(env.DATABASE), disableEval: true });\n\
                  DATABASE.query('x');\nprocess.env.DATABASE.query('x');";
    assert_eq!(rules(&[named, Source::new("worker.js", driver)]), [""; 0]);
}

#[test]
fn the_exit_code_tells_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let clean = file("config.yml", "ingress:\n  - service: http_status:404\n");
    let odd = file("odd.sh", "\u{fffd}\n");
    let broken = file("wrangler.toml", "hyperdrive = ");
    let binary = file("binary.yml", "ingress:\0");
    let output = tidegate(&["lint", &clean, &odd]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "no findings in 2 files\n".into())
    );
    let output = tidegate(&["lint", "--json", &clean]);
    assert_eq!(text(&output.stdout), "{\"findings\":[],\"files\":1}\n");
    let output = tidegate(&["lint", &clean, &broken]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).ends_with("1 finding in 2 files\n"), "{output:?}");
    for (args, part) in [
        (&["lint"][..], "FILE"),
        (&["lint", "/nonexistent"], "cannot read /nonexistent"),
        (&["lint", "src"], "cannot read src"),
        (&["lint", "/dev/zero"], "/dev/zero has more than"),
        (&["lint", &binary], "binary.yml has NUL bytes"),
        (&["lint", "u:s3cret@tcp(h:4000)/d"], "cannot read ****"),
        (&["lint", "postgres://u:s3cret@h/d"], "mysql://"),
        (&["lint", "--format", "x", "y"], "--format"),
    ] {
        let output = tidegate(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: no `{part}` in:\n{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_dsn_may_be_the_argument_and_is_not_repeated() {
    let dsn = "mysql://root:s3cret@gateway01.us-east-1.prod.aws.tidbcloud.com/d?sslaccept=strict";
    for args in [&["lint", dsn][..], &["lint", "--json", dsn]] {
        let output = tidegate(args);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stdout) + &text(&output.stderr);
        for rule in ["dsn-sslaccept", "dsn-port", "dsn-prefix"] {
            assert!(said.contains(rule), "{said}");
        }
        assert!(!said.contains("s3cret") && !said.contains("root"), "{said}");
    }
}

#[test]
fn passwords_are_in_no_report() {
    let odd = [
        "mysql://u:s3cret@10.0.0.1:4000/d?sslaccept=s3cret&password=s3cret",
        "mysql://u:x@s3cret@10.0.0.1:4000/d",
        "mysql://u:x/s3cret@10.0.0.1:4000/d",
        "mysql://u:x?s3cret@10.0.0.1:4000/d",
        "mysql://u:x#s3cret@10.0.0.1:4000/d",
        "mysql://u:s3cret",
        "mysql://s3cret:4000x",
    ];
    for dsn in odd {
        for (name, text) in [
            ("dsn", dsn.to_owned()),
            (".env", format!("HYPERDRIVE='{dsn}'\n")),
            ("x.sh", format!("wrangler hyperdrive create x --connection-string=\"{dsn}\"\n")),
            ("x.sh", format!("wrangler hyperdrive create x --host '{dsn}' --password s3cret\n")),
            ("config.yml", format!("ingress:\n  - hostname: '{dsn}'\n    service: {dsn}\n")),
            (
                "config.yml",
                format!("ingress:\n  - service: tcp://u:s3cret@h\n  - service: '{dsn}'\n"),
            ),
            ("wrangler.toml", format!("hyperdrive = [ '{dsn}'\n")),
            (
                "wrangler.jsonc",
                format!("{{\"hyperdrive\": [{{\"localConnectionString\": \"{dsn}\"}}], {dsn}}}"),
            ),
            (
                "worker.js",
                format!(
                    "new HyperdriveConfig({{host: '{dsn}', x: env.HYPERDRIVE.query('{dsn}')}})"
                ),
            ),
            ("x.md", format!("{dsn}\n```yaml\ningress: [{{service: \"{dsn}\"}}\n")),
        ] {
            let report = lint(&[Source::new(name, &text)]);
            let said = report.to_string() + &report.to_json();
            assert!(!said.contains("s3cret"), "{name}: {text}\n{said}");
        }
    }
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let text = "ingress:\n  - hostname: \"a\\e[2J:4000\"\n    service: http_status:404\n  - service: http_status:404\n";
    let report = lint(&[Source::new("config.yml", text)]);
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(!report.to_string().contains('\u{1b}'));
}

#[test]
fn depth_and_size_end_somewhere() {
    for deep in
        ["[".repeat(100_000), "{a: ".repeat(20_000), "- ".repeat(100_000), "$(".repeat(100_000)]
    {
        for (name, before) in [
            ("config.yml", "ingress: "),
            ("wrangler.toml", "hyperdrive = "),
            ("wrangler.json", "{\"hyperdrive\": "),
            ("x.sh", ""),
            ("x.js", "env.HYPERDRIVE"),
            ("x.md", "```\n"),
        ] {
            check(&lint(&[Source::new(name, &format!("{before}{deep}"))]), 1 + deep.len());
        }
    }
    // Quotes that nobody closes.
    for odd in ["'\n", "$(\n", "\"$(\n", "\\\n", "`\n", "```\n"] {
        let text = odd.repeat(100_000);
        for name in ["x.sh", "x.js", "x.md", "config.yml"] {
            check(&lint(&[Source::new(name, &text)]), 200_001);
        }
    }
}

#[test]
fn time_grows_no_faster_than_files() {
    let endpoints = "aws ec2 create-vpc-endpoint --service-name $S\n".repeat(40_000);
    let hyperdrive = "wrangler hyperdrive create x --host $H --scheme mysql\nX=mysql://u:p@h:1/d\n";
    let routes = "# cloudflared tunnel route dns x a.c\n".repeat(30_000);
    let rules = "  - hostname: a.b\n    service: tcp://h:1\n".repeat(30_000);
    let bindings: String =
        (0..100_000).map(|n| format!("[[hyperdrive]]\nbinding='B{n}'\nid='1'\n")).collect();
    for sources in [
        vec![Source::new("x.sh", &endpoints)],
        vec![Source::new("x.sh", &hyperdrive.repeat(30_000))],
        vec![Source::new("x.sh", &"cat > $F <<E\ningress:\nE\necho >> $F\n".repeat(30_000))],
        vec![Source::new("config.yml", &format!("{routes}ingress:\n{rules}"))],
        vec![
            Source::new("x.md", &format!("```toml\n{bindings}")),
            Source::new("x.js", &"x ".repeat(400_000)),
        ],
    ] {
        let begun = Instant::now();
        lint(&sources);
        // It takes about a second. When it was quadratic, half as many endpoints took 45.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}

const NAMES: &[&str] = &[
    "config.yml",
    "wrangler.toml",
    "wrangler.jsonc",
    "worker.ts",
    "set-up.sh",
    "guide.md",
    ".env",
    "dsn",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_survived(name in proptest::sample::select(NAMES), text in "(?s).{0,300}") {
        let report = lint(&[Source::new(name, &text)]);
        check(&report, text.lines().count() + 1);
    }

    /// What rules look for, in any order: they meet all they can meet.
    #[test]
    fn any_order_of_what_rules_look_for_is_survived(
        name in proptest::sample::select(NAMES),
        words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60),
    ) {
        let text = words.concat();
        check(&lint(&[Source::new(name, &text), Source::new("config.yml", &text)]), text.lines().count() + 1);
    }

    /// What rules know, damaged.
    #[test]
    fn damaged_files_are_survived(
        (case, from, to) in (0..PLANTED.len(), 0..500_usize, 0..500_usize),
        put in "(?s).{0,3}",
    ) {
        let (name, text, _) = PLANTED[case];
        let chars: Vec<char> = text.chars().collect();
        let (from, to) = (from.min(chars.len()), to.min(chars.len()));
        let mut damaged: String = chars[..from].iter().collect();
        damaged += &put;
        damaged.extend(&chars[to..]);
        check(&lint(&[Source::new(name, &damaged)]), damaged.lines().count() + 1);
    }
}

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "\n", "\n", "\n  ", "- ", ": ", " ", " ", "=", "\"", "'", "`", "```", "```yaml\n", "```sh\n", "\\", "\\\n", "#", "//", "/*",
    "*/", "{", "}", "[", "]", "[[", "]]", "(", ")", "$(", ",", ".", "!", "?", "@", "%", "<<EOF\n", "EOF\n", "&", "|", ";",
    "ingress:\n", "hostname: ", "service: ", "tcp://", "http://", "mysql://", "unix:", "h:4000", "[::1]", "[::", "path: x", "é",
    "tunnel: ", "protocol: http2\n", "&a ", "*a", "!!x ", "|\n", ">-\n", "? ", "--- ", "...\n", "%TAG ", "\u{feff}", "\t", "\r",
    "wrangler ", "npx ", "hyperdrive ", "create ", "vpc ", "service ", "--type ", "tcp ", "--ipv4 ", "--host ", "--port ",
    "--connection-string ", "--access-client-id ", "--service-id ", "aws ", "ec2 ", "create-vpc-endpoint ", "cloudflared ",
    "route ", "dns ", "[[hyperdrive]]\n", "binding = 'X'\n", "\"hyperdrive\"", "compatibility_date", "2024-01-01", "env.HYPERDRIVE",
    "import ", "'mysql2'", "createConnection(", ".execute(", ".query(", "HyperdriveConfig", "host: ", "'10.0.0.1'", "u:p@", "0x", "-1",
    "gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com", "?sslaccept=strict", "VPC HTTP only",
];

/// What is true of every report.
fn check(report: &Report, lines: usize) {
    for finding in &report.findings {
        assert!((1..=lines).contains(&finding.line), "{finding:?} in {lines} lines");
        assert!(!finding.wrong.is_empty() && !finding.instead.is_empty());
    }
    let _ = report.to_string() + &report.to_json();
}

fn readme() -> String {
    fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

fn tidegate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).current_dir(ROOT).output().unwrap()
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
