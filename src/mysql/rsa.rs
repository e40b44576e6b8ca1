//! How a password crosses a connection without TLS: sealed for the key of the other side.
//!
//! RSA-OAEP with SHA-1 of the password, its zero included, each byte xor-ed with the nonce.
//! Source: MySQL's `sql/auth/sha2_password.cc` and `sql-common/client_authentication.cc`.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

/// A key that clients seal passwords for.
#[derive(Debug)]
pub struct Key {
    private: OaepPrivateDecryptingKey,
    /// What they are sent: the public half in PEM form.
    pub public: String,
}

impl Key {
    /// A new one, of 2,048 bits as MySQL's own; takes some hundred milliseconds.
    pub fn generate() -> Result<Self, Unspecified> {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048)?;
        let der: PublicKeyX509Der<'_> = private.public_key().as_der()?;
        let public = pem::Pem::new("PUBLIC KEY", der.as_ref());
        let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Ok(Self {
            public: pem::encode_config(&public, lines),
            private: OaepPrivateDecryptingKey::new(private)?,
        })
    }

    /// The password with its zero, if it was sealed for this key and on this nonce.
    pub fn open(&self, sealed: &[u8], nonce: &[u8]) -> Option<Vec<u8>> {
        let mut room = vec![0; self.private.min_output_size()];
        let opened = self.private.decrypt(&OAEP_SHA1_MGF1SHA1, sealed, &mut room, None).ok()?;
        let password = masked(opened, nonce);
        (password.last() == Some(&0)).then_some(password)
    }
}

/// Seals a password, its zero included, for the server whose public key this is.
pub fn seal(password: &[u8], nonce: &[u8], public: &[u8]) -> Option<Vec<u8>> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(public).ok()?;
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&key).ok()?).ok()?;
    let mut sealed = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked(password, nonce), &mut sealed, None).ok()?;
    Some(sealed)
}

fn masked(bytes: &[u8], nonce: &[u8]) -> Vec<u8> {
    bytes.iter().zip(nonce.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &[u8] = b"12345678901234567890";

    #[test]
    fn what_is_sealed_for_a_key_is_opened_by_it_on_the_same_nonce_only() {
        let key = Key::generate().unwrap();
        assert!(key.public.starts_with("-----BEGIN PUBLIC KEY-----\nMII"), "{}", key.public);
        let password = b"a password that is longer than its nonce\0";
        let sealed = seal(password, NONCE, key.public.as_bytes()).unwrap();
        assert_eq!(sealed.len(), 256);
        assert_eq!(key.open(&sealed, NONCE).unwrap(), password);
        assert_eq!(key.open(&sealed, b"another nonce of 20 b"), None);
        assert_eq!(Key::generate().unwrap().open(&sealed, NONCE), None);
        assert_eq!(key.open(b"", NONCE), None);
        assert_eq!(seal(password, NONCE, b"no key"), None);
    }
}
