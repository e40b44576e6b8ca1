//! What makes no sense of TLS, and what is said about it.

use super::{ClientTls, UpstreamTls, parse};

/// A file with one listener and one upstream, whose keys begin at lines 2 and 5.
fn file(listener: &str, upstream: &str) -> String {
    assert!(listener.lines().count() <= 1);
    format!("[[listener]]\n{listener}\n\n[upstream.gw]\n{upstream}\ngateway = \"gw.example.com\"\n")
}

fn refused(listener: &str, upstream: &str) -> String {
    parse(&file(listener, upstream), "t.toml").unwrap_err().to_string()
}

#[test]
fn nothing_is_touched_unless_it_is_said() {
    let config = parse(&file("", ""), "t.toml").unwrap();
    assert_eq!(config.listeners[0].tls.client_tls, ClientTls::Off);
    assert_eq!(config.upstreams[0].tls.upstream_tls, UpstreamTls::Passthrough);
}

#[test]
fn what_is_printed_of_tls_reads_back_as_the_same_values() {
    let text = "[[listener]]\nclient_tls = \"required\"\ntls_cert = [\"/a.crt\", \"/b.crt\"]\n\
                tls_key = [\"/a.key\", \"/b.key\"]\nclient_ca = \"/ca\"\n\
                [upstream.gw]\ngateway = \"gw\"\nupstream_tls = \"verify-identity\"\ntls_ca = \"/c\"\n\
                tls_server_name = \"db.example.com\"\ntls_client_cert = \"/d\"\ntls_client_key = \"/e\"\n";
    let config = parse(text, "t.toml").unwrap();
    let printed = config.to_toml();
    assert_eq!(parse(&printed, "again.toml").unwrap(), config);
    for line in text.lines().filter(|line| !line.starts_with('[')) {
        let line = line.replace("\"gw\"", "\"gw:4000\"");
        assert!(printed.lines().any(|printed| printed == line), "no `{line}` in:\n{printed}");
    }
}

#[test]
fn tls_that_ends_here_must_go_on_somehow() {
    let keys = "tls_cert = \"/c\"\ntls_key = \"/k\"\n";
    for mode in ["optional", "required"] {
        let listener = format!("[[listener]]\nclient_tls = \"{mode}\"\n{keys}");
        let text =
            |upstream: &str| format!("{listener}[upstream.gw]\ngateway = \"gw\"\n{upstream}");
        let said = parse(&text(""), "t.toml").unwrap_err().to_string();
        for part in
            [&format!("client_tls = \"{mode}\""), "passthrough", "\nhint: ", "verify-identity"]
        {
            assert!(said.contains(part), "no {part} in:\n{said}");
        }
        for on in ["off", "required", "verify-ca", "verify-identity"] {
            parse(&text(&format!("upstream_tls = \"{on}\"\n")), "t.toml").unwrap();
        }
    }
    for only_there in ["off", "required"] {
        parse(&file("", &format!("upstream_tls = \"{only_there}\"")), "t.toml").unwrap();
    }
}

#[test]
fn what_would_be_ignored_is_refused_by_its_name_and_line() {
    for key in ["tls_cert", "tls_key", "client_ca"] {
        let said = refused(&format!("{key} = \"/f\""), "");
        let told = format!("t.toml:2: `{key}` is set, but `client_tls` is `off`\nhint: ");
        assert!(said.starts_with(&told), "{said}");
    }
    for key in ["tls_ca", "tls_server_name", "tls_client_cert", "tls_client_key"] {
        for mode in ["passthrough", "off"] {
            let upstream = format!("{key} = \"f\"\nupstream_tls = \"{mode}\"");
            let said = refused("", &upstream);
            let told = format!("t.toml:5: `{key}` is set, but `upstream_tls` is `{mode}`\nhint: ");
            assert!(said.starts_with(&told), "{said}");
        }
    }
    let said = refused("", "tls_ca = \"/ca\"\nupstream_tls = \"required\"");
    let told = "t.toml:5: `tls_ca` is set, but `upstream_tls` is `required`\nhint: ";
    assert!(said.starts_with(told) && said.contains("verify-ca"), "{said}");
}

#[test]
fn what_is_missing_is_named() {
    let said = refused("client_tls = \"required\"", "upstream_tls = \"off\"");
    assert!(said.contains("there is no `tls_cert`\nhint: "), "{said}");
    assert!(said.contains("tidegate render certificate"), "{said}");

    let listener = |keys: &str| {
        let text = format!(
            "[[listener]]\nclient_tls = \"required\"\n{keys}\n[upstream.gw]\ngateway = \"gw\"\nupstream_tls = \"off\"\n"
        );
        parse(&text, "t.toml").map_err(|error| error.to_string())
    };
    let said = listener("tls_cert = \"/c\"").unwrap_err();
    assert!(said.contains("there is no `tls_key`"), "{said}");
    let said = listener("tls_cert = [\"/a\", \"/b\"]\ntls_key = \"/k\"").unwrap_err();
    assert!(
        said.starts_with("t.toml:4: `tls_key` has 1 of the 2 keys of `tls_cert`\nhint: "),
        "{said}"
    );
    listener("tls_cert = [\"/a\", \"/b\"]\ntls_key = [\"/a\", \"/b\"]").unwrap();

    let text = "[[listener]]\nclient_tls = \"required\"\ntls_crt = \"/c\"\n[upstream.gw]\ngateway = \"gw\"\n";
    let said = parse(text, "t.toml").unwrap_err().to_string();
    assert!(said.starts_with("t.toml:3: ") && said.contains("did you mean `tls_cert`?"), "{said}");

    for (key, other) in
        [("tls_client_cert", "tls_client_key"), ("tls_client_key", "tls_client_cert")]
    {
        let said = refused("", &format!("{key} = \"/f\"\nupstream_tls = \"required\""));
        assert!(said.contains(&format!("`{key}` is set, but there is no `{other}`")), "{said}");
    }
}

#[test]
fn a_certificate_cannot_be_asked_of_clients_without_tls() {
    let text = "[[listener]]\nclient_tls = \"optional\"\ntls_cert = \"/c\"\ntls_key = \"/k\"\n\
                client_ca = \"/ca\"\n[upstream.gw]\ngateway = \"gw\"\nupstream_tls = \"off\"\n";
    let said = parse(text, "t.toml").unwrap_err().to_string();
    assert!(said.starts_with("t.toml:5: `client_ca` is set"), "{said}");
    parse(&text.replace("optional", "required"), "t.toml").unwrap();
}

#[test]
fn only_mysql_begins_tls_as_mysql_does() {
    let text = "[[listener]]\nprotocol = \"tcp\"\nclient_tls = \"required\"\n[upstream.gw]\ngateway = \"gw\"\n";
    let said = parse(text, "t.toml").unwrap_err().to_string();
    assert!(said.contains("`client_tls` is `required` with protocol = \"tcp\""), "{said}");
    for mode in ["off", "required", "verify-ca", "verify-identity"] {
        let said = refused("protocol = \"tcp\"", &format!("upstream_tls = \"{mode}\""));
        assert!(said.contains("protocol = \"tcp\"") && said.contains(mode), "{said}");
    }
    parse(&file("protocol = \"tcp\"", "upstream_tls = \"passthrough\""), "t.toml").unwrap();
}

#[test]
fn a_server_has_a_name_or_an_address() {
    for fine in ["db.example.com", "10.0.0.1", "fd00::1"] {
        let upstream = format!("tls_server_name = \"{fine}\"\nupstream_tls = \"verify-identity\"");
        parse(&file("", &upstream), "t.toml").unwrap();
    }
    for wrong in ["db.example.com:4000", "a b", ""] {
        let upstream = format!("tls_server_name = \"{wrong}\"\nupstream_tls = \"verify-identity\"");
        let said = refused("", &upstream);
        assert!(said.contains("expected a DNS name or an IP address"), "{said}");
    }
    let odd = |more: &str| {
        let text = format!("[upstream.gw]\ngateway = \"-gw.example.com\"\n{more}");
        parse(&text, "t.toml").map_err(|error| error.to_string())
    };
    odd("").unwrap();
    let said = odd("upstream_tls = \"required\"\n").unwrap_err();
    assert!(said.starts_with("t.toml:2: ") && said.contains("tls_server_name"), "{said}");
    odd("upstream_tls = \"required\"\ntls_server_name = \"gw\"\n").unwrap();
}
