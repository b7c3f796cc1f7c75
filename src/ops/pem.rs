//! PEM: the certificates and keys of TLS, as files have them.

use std::{fs, io, path::Path};

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

/// Why a file is of no use. Says nothing of what is in it.
#[derive(Debug)]
pub enum PemError {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It has not what it should have.
    Wrong(&'static str),
}

/// Reads a file of PEM. May block.
///
/// # Errors
/// [`PemError::Unreadable`].
pub fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    fs::read(path).map_err(PemError::Unreadable)
}

/// The certificates in a text.
///
/// # Errors
/// [`PemError::Wrong`] when there is none, or not only such.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| PemError::Wrong("not valid PEM"))?;
    if found.is_empty() { Err(PemError::Wrong("no certificate in it")) } else { Ok(found) }
}

/// The authorities in a text.
///
/// # Errors
/// [`PemError::Wrong`] when there is none, or one that is none.
pub fn roots(text: &[u8]) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(text)? {
        roots.add(root).map_err(|_| PemError::Wrong("not the certificate of an authority"))?;
    }
    Ok(roots)
}

/// The authorities that all programs of the system believe, if there are any.
#[must_use]
pub fn system_roots() -> Option<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A few in such a collection may be of forms that nobody uses any more.
    let (usable, _others) = roots.add_parsable_certificates(found.certs);
    (usable > 0).then_some(roots)
}

/// The first private key in a text.
///
/// # Errors
/// [`PemError::Wrong`] when there is none.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            PemError::Wrong("no private key in it")
        } else {
            PemError::Wrong("not valid PEM")
        }
    })
}
