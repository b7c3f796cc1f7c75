//! Peers: what the transport knows of whoever called.

use std::{net::SocketAddr, sync::Arc};

/// The other end of a connection. The transport puts one into the extensions of each request.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Known>);

#[derive(Debug)]
struct Known {
    address: SocketAddr,
    certificate: Option<Vec<u8>>,
}

impl Peer {
    /// With the certificate that it has proved to own, as DER, if it was asked for one.
    #[must_use]
    pub fn new(address: SocketAddr, certificate: Option<Vec<u8>>) -> Self {
        Self(Arc::new(Known { address, certificate }))
    }

    /// Where it calls from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Its certificate, as DER: signed by an authority that the server trusts. None without mutual
    /// TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.0.certificate.as_deref()
    }
}
