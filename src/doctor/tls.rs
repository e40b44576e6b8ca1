//! TLS with the server: offered, agreed on, and by whose certificate.

use std::io;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use rustls::{AlertDescription, CertificateError, Error};

use super::answers::Advice;
use super::case::Case;
use super::finding::{Finding, Status, together};
use super::host::is_clock_off;
use super::journey::{Greeted, Journey, Secured, Trouble};
use crate::config::UpstreamTls;
use crate::mysql::error::Problem;
use crate::tls::look::{Shown, Written};
use crate::tls::reason::reason;
use crate::upstream::plan::Service;

const OFFERED: &str = "tls.offered";
const HANDSHAKE: &str = "tls.handshake";
const CERTIFICATE: &str = "tls.certificate";
/// Whoever renews certificates does so earlier.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A connection, and whether a log-in can be tried on it.
pub(super) struct Ready {
    pub journey: Journey,
    pub greeted: Greeted,
    /// Why not.
    pub barred: Option<&'static str>,
}

/// Waits until it is known of each.
pub(super) async fn examine(case: &Case, greeted: Vec<(Journey, Greeted)>) -> Vec<Ready> {
    if greeted.is_empty() {
        case.behind(&[OFFERED, HANDSHAKE, CERTIFICATE], "no server has greeted");
        return Vec::new();
    }
    let mut findings: [Vec<Finding>; 3] = Default::default();
    let mut ready = Vec::new();
    let is_clock_off = is_clock_off(&case.instance).await;
    for (mut journey, greeted) in greeted {
        let address = journey.address;
        let offer = offered(case, greeted.offers_tls).of(address);
        let mut barred = offer.cause.map(|_| "there is no TLS");
        findings[0].push(offer);
        if case.mode() == UpstreamTls::Off || !greeted.offers_tls {
            let why = match case.mode() {
                UpstreamTls::Off => "upstream_tls = \"off\"",
                _ => "TLS is not offered",
            };
            findings[1].push(Finding::behind(HANDSHAKE, why));
            findings[2].push(Finding::behind(CERTIFICATE, why));
            ready.push(Ready { journey, greeted, barred });
            continue;
        }
        let secured = (&mut journey.secured).await.ok();
        let (handshake, mut certificate) = judged(case, secured.as_ref());
        if handshake.cause.is_some() {
            barred = Some("TLS has failed");
        } else if certificate.status == Status::Fail {
            barred = Some("the server's certificate is not trusted");
        }
        if is_clock_off && ["expired", "not_yet_valid"].map(Some).contains(&certificate.cause) {
            let why = "this host's clock is wrong, so dates cannot be judged";
            certificate = Finding::skip(CERTIFICATE, why);
            barred = barred.map(|_| why);
        }
        findings[1].push(handshake.of(address));
        findings[2].push(certificate.of(address));
        ready.push(Ready { journey, greeted, barred });
    }
    for all in findings {
        case.tell_all(together(all));
    }
    ready
}

fn offered(case: &Case, offers_tls: bool) -> Finding {
    let mode = case.mode();
    match (offers_tls, mode) {
        (true, UpstreamTls::Off) => {
            Finding::ok(OFFERED, "offered, and not used: upstream_tls = \"off\"")
        }
        (true, _) => Finding::ok(OFFERED, "offered"),
        (false, UpstreamTls::Off) => Finding::ok(OFFERED, "not offered, and not asked for"),
        (false, _) if !case.needs_tls() => Finding::ok(
            OFFERED,
            "not offered: clients that insist on it fail, and what others say is plain",
        ),
        (false, UpstreamTls::Passthrough) => Finding::fail(
            OFFERED,
            "no_tls",
            "not offered, and this gateway lets nobody in without it",
        )
        .likely("what answers is not the gateway, or something before it that ends TLS")
        .hint("is the address the gateway's own? DNS and proxies on the way can tell"),
        (false, _) => Finding::fail(
            OFFERED,
            "no_tls",
            format!("not offered, and upstream_tls = \"{}\"", mode.as_str()),
        )
        .likely("the server has no certificate, or its TLS is turned off")
        .hint(
            "give the server a certificate (ssl_cert and ssl_key); on a private network that is \
             trusted, upstream_tls = \"off\" (--upstream-tls off)",
        ),
    }
}

fn judged(case: &Case, secured: Option<&Secured>) -> (Finding, Finding) {
    let Some(Secured { result, shown }) = secured else {
        let skip = |check| Finding::skip(check, "the check has ended before");
        return (skip(HANDSHAKE), skip(CERTIFICATE));
    };
    match result {
        Ok((protocol, cipher)) => {
            let word = |debug: String| debug.replace("TLSv1_", "TLS 1.");
            let text = word(format!("{protocol:?}, {cipher:?}"));
            let certificate = match shown {
                Some(shown) => certificate(case, shown, SystemTime::now()),
                None => Finding::skip(CERTIFICATE, "none was shown"),
            };
            (Finding::ok(HANDSHAKE, text), certificate)
        }
        Err(trouble) => (
            broken(trouble, shown.is_some()),
            Finding::behind(CERTIFICATE, "TLS has failed before it counted"),
        ),
    }
}

/// `was_shown`: the server has shown a certificate, so both sides had agreed on protocol and ciphers.
fn broken(trouble: &Trouble, was_shown: bool) -> Finding {
    let (cause, evidence) = match trouble {
        Trouble::Wire(Problem::Tls(error)) => {
            let cause = match of_library(error) {
                _ if wants_certificate(error) => "client_certificate",
                Some(Error::AlertReceived(AlertDescription::HandshakeFailure)) if was_shown => {
                    "client_certificate"
                }
                Some(
                    Error::PeerIncompatible(_)
                    | Error::AlertReceived(
                        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
                    ),
                ) => "tls_protocol",
                _ => "tls_broken",
            };
            (cause, reason(error, "the server"))
        }
        other => ("tls_broken", other.to_string()),
    };
    let finding = Finding::fail(HANDSHAKE, cause, evidence);
    match cause {
        "tls_protocol" => finding
            .likely("the server speaks only TLS 1.1 or older, or only ciphers of those days")
            .hint("set the server's tls_version = TLSv1.2,TLSv1.3"),
        "client_certificate" => finding.advised(&show_certificate()),
        _ => finding
            .likely("the server's TLS is not set up well, or something on the way changes it")
            .hint("look at the server's log"),
    }
}

/// Whether the other side has ended TLS for want of a certificate, or for the one that it was shown;
/// with TLS 1.3 that comes when the client takes the handshake for done.
pub(super) fn wants_certificate(error: &io::Error) -> bool {
    let Some(Error::AlertReceived(alert)) = of_library(error) else { return false };
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

fn of_library(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// What to do where [`wants_certificate`].
pub(super) fn show_certificate() -> Advice {
    Advice {
        likely: "the server wants a certificate of its clients, or another one".to_owned(),
        hint:
            "tls_client_cert and tls_client_key (--tls-client-cert, --tls-client-key), signed by \
               an authority that the server trusts"
                .to_owned(),
    }
}

/// What is to be said of a certificate that is valid until then.
pub(super) fn expiry(ends: SystemTime, now: SystemTime) -> Option<&'static str> {
    match ends.duration_since(now) {
        Err(_) => Some("expired"),
        Ok(left) if left < SOON => Some("expires_soon"),
        Ok(_) => None,
    }
}

fn certificate(case: &Case, shown: &Shown, now: SystemTime) -> Finding {
    let written = shown.chain.first().and_then(Written::in_certificate);
    let Some(written) = written else {
        return verdict(case, "bad_certificate", "it cannot be read".into(), None);
    };
    let names = match written.names.as_slice() {
        [] => "no name".to_owned(),
        names => names.join(", "),
    };
    let until = format_rfc3339_seconds(written.ends);
    let from = (written.begins > now).then(|| format_rfc3339_seconds(written.begins));
    let from = from.map(|from| format!("from {from} ")).unwrap_or_default();
    let evidence = format!("for {names}; signed by {}; valid {from}until {until}", written.issuer);
    let left = written.ends.duration_since(now).unwrap_or_default();
    let with_days = || format!("{evidence}, {} days", left.as_secs() / (24 * 60 * 60));
    let cause = match &shown.verdict {
        // What those who verify would not like of a certificate that nobody verifies here.
        Some(Err(error)) => Some(cause(case, error, shown, &written)),
        _ if written.begins > now => Some("not_yet_valid"),
        _ => expiry(written.ends, now),
    };
    match cause {
        Some(cause @ "expires_soon") => Finding::warn(CERTIFICATE, cause, with_days())
            .likely("whatever renews the server's certificate has not done so")
            .hint("renew it, and have the server read it"),
        Some(cause) => verdict(case, cause, evidence, Some(&written)),
        None => {
            let looked = match (case.mode().is_verified(), &shown.verdict) {
                (true, _) => "",
                (false, Some(Ok(()))) => "; clients that verify it can",
                (false, _) => "; not looked at further",
            };
            Finding::ok(CERTIFICATE, with_days() + looked)
        }
    }
}

/// A verdict counts where the settings ask for one. Where they do not, it is told to those whose clients
/// may.
fn verdict(
    case: &Case,
    cause: &'static str,
    evidence: String,
    written: Option<&Written>,
) -> Finding {
    let advice = advice(case, cause, written);
    let is_public_authoritys = case.is_service(Service::Starter);
    match case.mode() {
        mode if mode.is_verified() => Finding::fail(CERTIFICATE, cause, evidence).advised(&advice),
        _ if cause == "expired" || is_public_authoritys => {
            Finding::warn(CERTIFICATE, cause, evidence).advised(&advice)
        }
        mode => Finding::ok(
            CERTIFICATE,
            format!(
                "{evidence}; clients that verify it by the system's authorities would not take it \
                 (upstream_tls = \"{}\" does not look)",
                mode.as_str()
            ),
        ),
    }
}

fn cause(case: &Case, error: &Error, shown: &Shown, written: &Written) -> &'static str {
    let Error::InvalidCertificate(error) = error else { return "bad_certificate" };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not_yet_valid"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "wrong_name"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let is_alone = shown.chain.len() == 1 && !written.is_self_signed;
            match is_alone && (written.points_to_issuer || is_of_our_authority(case, written)) {
                true => "incomplete_chain",
                false => "wrong_ca",
            }
        }
        _ => "bad_certificate",
    }
}

/// Whether the one that has signed is of an organisation that is trusted.
fn is_of_our_authority(case: &Case, written: &Written) -> bool {
    let Some(organisation) = &written.issuer_organisation else { return false };
    let Some(path) = &case.upstream.tls.tls_ca else { return false };
    let trusted = crate::tls::cert::read_chain(path).unwrap_or_default();
    let trusted = trusted.iter().filter_map(Written::in_certificate);
    // An authority has signed itself.
    trusted.filter_map(|one| one.issuer_organisation).any(|one| one == *organisation)
}

fn advice(case: &Case, cause: &str, written: Option<&Written>) -> Advice {
    let host = case.upstream.tls.tls_server_name.as_deref().unwrap_or(case.host());
    let issuer = written.map_or("its authority", |written| written.issuer.as_str());
    let now = format_rfc3339_seconds(SystemTime::now());
    let (likely, hint) = match cause {
        "wrong_ca" => (
            format!("{issuer}, which has signed it, is none of those that are trusted here"),
            match &case.upstream.tls.tls_ca {
                _ if case.is_service(Service::Dedicated) => {
                    "download the cluster's CA from the console, and name it: tls_ca (--tls-ca)"
                        .to_owned()
                }
                Some(path) => format!(
                    "{} is not its authority's: put the certificate of {issuer} there",
                    path.display()
                ),
                None => {
                    format!("name the certificate of {issuer}: tls_ca (--tls-ca), in PEM form")
                }
            },
        ),
        "incomplete_chain" => (
            format!("the server sends only its own certificate, and not that of {issuer}"),
            format!(
                "put the certificate of {issuer} behind the server's own in its ssl_cert, or into \
                 the file of tls_ca"
            ),
        ),
        "wrong_name" => (
            format!("it is not for {host}: the connection goes through an address or another name"),
            match written.and_then(|written| written.names.first()) {
                Some(name) => format!(
                    "tls_server_name = \"{}\" (--tls-server-name), if that is who it should be",
                    name.strip_prefix("*.")
                        .map_or_else(|| name.clone(), |rest| format!("NAME.{rest}"))
                ),
                None => {
                    "upstream_tls = \"verify-ca\" (--upstream-tls), which does not look at names, \
                         or a certificate with the name in it"
                        .to_owned()
                }
            },
        ),
        "expired" => (
            "nobody has renewed it, or this host's clock is wrong".to_owned(),
            format!("renew the server's certificate; it is {now} by this host's clock, is it?"),
        ),
        "not_yet_valid" => (
            "this host's clock is behind, or it was made for later".to_owned(),
            format!(
                "it is {now} by this host's clock; if that is wrong:\ntimedatectl set-ntp true"
            ),
        ),
        _ => (
            "the certificate is of an old form, or an authority's own".to_owned(),
            "make one that is a server's (X.509 version 3, with its names as subjectAltName); \
             `tidegate render certificate` does. One that has signed itself can be in tls_ca itself"
                .to_owned(),
        ),
    };
    Advice { likely, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_alert_means_depends_on_what_was_agreed_before() {
        let cause = |alert, was_shown| {
            let error = io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert));
            broken(&Trouble::Wire(Problem::Tls(error)), was_shown).cause.unwrap()
        };
        let failure = AlertDescription::HandshakeFailure;
        assert_eq!(
            [false, true].map(|was| cause(failure, was)),
            ["tls_protocol", "client_certificate"]
        );
        assert_eq!(cause(AlertDescription::UnknownCA, true), "client_certificate");
        assert_eq!(cause(AlertDescription::InternalError, true), "tls_broken");
    }
}
