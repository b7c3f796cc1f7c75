//! Peers: what the transport knows of whoever called.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
};

use crate::access::{Attempts, CertificateNames};

/// The other end of a connection. The transport puts one into the extensions of each request.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Known>);

#[derive(Debug)]
struct Known {
    address: SocketAddr,
    /// The address as text, without the port.
    host: Arc<str>,
    certificate: Option<Vec<u8>>,
    /// Read when the first call asks, for all calls of the connection.
    names: OnceLock<CertificateNames>,
    /// How many bytes of large answers wait until it takes them.
    untaken: AtomicUsize,
    attempts: Attempts,
}

impl Peer {
    /// With the certificate that it has proved to own, as DER, if it was asked for one.
    #[must_use]
    pub fn new(address: SocketAddr, certificate: Option<Vec<u8>>) -> Self {
        let (host, names) = (address.ip().to_string().into(), OnceLock::new());
        let (untaken, attempts) = Default::default();
        Self(Arc::new(Known { address, host, certificate, names, untaken, attempts }))
    }

    /// Where it calls from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The same as text, without the port.
    pub(super) fn host(&self) -> &Arc<str> {
        &self.0.host
    }

    /// Its certificate, as DER: signed by an authority that the server trusts. None without mutual
    /// TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.0.certificate.as_deref()
    }

    /// The names in its certificate, if it has one.
    pub(super) fn certificate_names(&self) -> Option<&CertificateNames> {
        let der = self.certificate()?;
        Some(self.0.names.get_or_init(|| CertificateNames::of(der)))
    }

    /// How often it may still show a token that nobody has signed.
    pub(super) fn attempts(&self) -> &Attempts {
        &self.0.attempts
    }

    /// How many bytes of large answers wait until it takes them.
    pub(super) fn untaken(&self) -> &AtomicUsize {
        &self.0.untaken
    }
}
