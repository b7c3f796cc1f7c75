//! PEM: the certificates and keys of TLS, as files have them.

use std::{fs, io, path::Path};

use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
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
