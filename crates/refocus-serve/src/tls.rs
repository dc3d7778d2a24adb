//! TLS towards other servers: their certificates are checked, always.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Certificates that cannot be read.
    #[error("{}: {why}", path.display())]
    BadCertificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nothing vouches for servers.
    #[error("this machine has no certificates to check a server's with ({why})")]
    NoCertificates {
        /// What the system said.
        why: String,
    },
    /// The library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Library(#[from] rustls::Error),
}

/// Trusts the certificates of this machine and those of a PEM file.
///
/// # Errors
/// The file cannot be used; or nothing can be trusted, where TLS is `needed`: without, a machine without certificates
/// will do.
pub(crate) fn client(ca_file: Option<&Path>, needed: bool) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let bad = |why: String| TlsError::BadCertificates { path: path.to_owned(), why };
        let all = CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
        let mut any = false;
        for certificate in all {
            let certificate = certificate.map_err(|e| bad(e.to_string()))?;
            roots.add(certificate).map_err(|e| bad(e.to_string()))?;
            any = true;
        }
        if !any {
            return Err(bad("there is no certificate in it".to_owned()));
        }
    }
    if roots.is_empty() && needed {
        let why = system.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(TlsError::NoCertificates { why });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
