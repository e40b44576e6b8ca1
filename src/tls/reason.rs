//! Why a handshake failed, in words for whoever has to mend it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};

/// What the other side, `peer` ("the server", "the client"), did or is, and what may help.
pub fn reason(error: &io::Error, peer: &str) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => {
            format!("{peer}'s certificate {}", of_certificate(why))
        }
        Some(Error::NoCertificatesPresented) => {
            format!("{peer} has shown no certificate, and client_ca wants one")
        }
        Some(Error::AlertReceived(alert)) => format!("{peer} {}", of_alert(*alert)),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            format!("what {peer} has sent is not TLS")
        }
        Some(Error::PeerIncompatible(_)) => {
            format!("{peer} speaks neither TLS 1.2 nor TLS 1.3 with a cipher of today: {error}")
        }
        Some(other) => format!("{peer} broke TLS: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("{peer} closed the connection in the middle of the handshake")
        }
        None => format!("the connection to {peer} broke: {error}"),
    }
}

fn of_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "is signed by nobody who is trusted here, or the \
            certificates between are missing: tls_ca names the authority's file"
            .into(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired, or this host's clock is wrong".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet, or this host's clock is wrong".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("is for another name ({why}): tls_server_name says which one it must be")
        }
        CertificateError::BadSignature => "has a signature that is wrong".into(),
        CertificateError::Other(OtherError(why)) => match why.downcast_ref() {
            Some(webpki::Error::UnsupportedCertVersion) => "is of X.509 version 1, in which nothing says \
                what it is for: one of version 3 is needed (openssl x509 -req makes it with -extfile)"
                .into(),
            Some(webpki::Error::CaUsedAsEndEntity) => "is an authority's own (CA:TRUE), and none of those \
                in tls_ca: put it there if it is the server's, or make one that is no authority's"
                .into(),
            _ => format!("cannot be accepted: {why}"),
        },
        other => format!("cannot be accepted: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "does not trust the authority of the certificate".into(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => "did not accept the certificate".into(),
        AlertDescription::CertificateExpired => "finds the certificate expired".into(),
        AlertDescription::CertificateRequired => "wants a certificate: tls_client_cert".into(),
        AlertDescription::ProtocolVersion => "speaks neither TLS 1.2 nor TLS 1.3".into(),
        other => format!("refused TLS with the alert {other:?}"),
    }
}
