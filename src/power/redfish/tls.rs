//! Whose controller it is: the certificate is checked before a password leaves, by an authority or by its
//! fingerprint. There is no switch that turns this off.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::clock;
use crate::power::PowerError;
use crate::power::settings::Trust;

pub(super) struct Tls {
    pub connector: TlsConnector,
    verifier: Arc<Verifier>,
}

impl Tls {
    /// `None` for plain HTTP.
    pub fn new(trust: &Trust) -> Result<Option<Tls>, PowerError> {
        let provider = Arc::new(ring::default_provider());
        let expects = match trust {
            Trust::Nothing => return Ok(None),
            Trust::Fingerprint(bytes) => Expects::Fingerprint(*bytes),
            Trust::Authorities(path) => Expects::Signed(
                authorities(path, &provider)
                    .map_err(|why| PowerError::Authorities { path: path.display().to_string(), why })?,
            ),
        };
        let verifier = Arc::new(Verifier { expects, provider: provider.clone(), seen: Mutex::default() });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        Ok(Some(Tls { connector: TlsConnector::from(Arc::new(config)), verifier }))
    }

    /// Why the handshake failed, with the fingerprint that a person can compare.
    pub fn failure(&self, place: &str, error: &std::io::Error) -> PowerError {
        let place = place.to_string();
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(why)) => {
                let why = match (why, &self.verifier.expects) {
                    (CertificateError::ApplicationVerificationFailure, Expects::Fingerprint(expected)) => {
                        format!("its fingerprint is not the expected sha256:{}", clock::hex(expected))
                    }
                    (why, _) => why.to_string(),
                };
                PowerError::NotTrusted { place, why, fingerprint: self.verifier.fingerprint_seen() }
            }
            Some(error) => PowerError::NoTls { place, why: error.to_string() },
            None => PowerError::NotReached { place, why: format!("the TLS handshake broke off: {error}") },
        }
    }
}

fn authorities(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error:?}"))?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no PEM certificate".to_string());
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| error.to_string())
}

enum Expects {
    Signed(Arc<WebPkiServerVerifier>),
    Fingerprint([u8; 32]),
}

struct Verifier {
    expects: Expects,
    provider: Arc<CryptoProvider>,
    /// The fingerprint of the last certificate, for the error.
    seen: Mutex<Option<[u8; 32]>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    fn fingerprint_seen(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.map_or_else(|| "unknown".to_string(), |bytes| clock::hex(&bytes))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fingerprint: [u8; 32] = Sha256::digest(end_entity).into();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint);
        match &self.expects {
            Expects::Signed(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Expects::Fingerprint(expected) if *expected == fingerprint => Ok(ServerCertVerified::assertion()),
            Expects::Fingerprint(_) => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    // Both prove that the other end has the certificate's key: without them a copied certificate would do.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
