//! Whom the command line trusts: a given authority, or those of the system. There is no switch that turns this off.

use crate::cli::Failure;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Where distributions keep their bundle: Debian and Alpine, Fedora and its kin, SUSE.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// # Errors
/// A file that is given and holds no certificate. Without a file and without a bundle nothing is trusted, which a
/// connection then says: plain HTTP needs none.
pub fn connector(ca: Option<&Path>) -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| format!("{}: no PEM certificates: {error}", path.display()))?;
            let (added, _) = roots.add_parsable_certificates(certificates);
            if added == 0 {
                return Err(format!("{}: it holds no certificate", path.display()).into());
            }
        }
        None => {
            let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            let bundle = named.into_iter().chain(BUNDLES.map(PathBuf::from)).find(|path| path.exists());
            let certificates = bundle.and_then(|path| CertificateDer::pem_file_iter(path).ok());
            // One that this library does not understand takes nothing from the others.
            roots.add_parsable_certificates(certificates.into_iter().flatten().filter_map(Result::ok));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
