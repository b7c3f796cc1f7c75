//! TLS: what the server proves itself with, read from its files, and read again when they change.
//!
//! It owns versions, ciphers and whether clients need certificates. New connections are made with
//! what was read last; those that are open go on with what they were made with.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{sync::watch, task::spawn_blocking};
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use tracing::{error, info};

use crate::ops::{
    Followed,
    config::TlsFiles,
    pem::{self, PemError},
};

/// The protocol that both sides agree on within TLS.
const HTTP2: &[u8] = b"h2";

/// Why the files of TLS are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key} = {:?}: {error}", path.display().to_string())]
    Unreadable {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file has not what it should have.
    #[error("{key} = {:?}: {reason}", path.display().to_string())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong. Never what is in it.
        reason: String,
    },
    /// The files do not go together.
    #[error("tls_certificate and tls_key: {0}")]
    Pair(rustls::Error),
}

/// Reads all files.
///
/// # Errors
/// [`TlsError`] when one cannot be used, or the key is not that of the certificate.
pub fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Pair)?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates("tls_client_ca", path)? {
                let added = roots.add(root);
                added.map_err(|error| wrong("tls_client_ca", path, &error))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|error| wrong("tls_client_ca", path, &error))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates("tls_certificate", &files.certificate)?;
    let key = pem::read(&files.key).and_then(|text| pem::private_key(&text));
    let key = key.map_err(|error| of_pem("tls_key", &files.key, error))?;
    let mut config = config.with_single_cert(chain, key).map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    if files.client_ca.is_some() {
        // A session that is resumed brings the certificate of its beginning along, and nobody looks
        // whether that has expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// The certificates of a file, of which there has to be one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = pem::read(path).and_then(|text| pem::certificates(&text));
    found.map_err(|error| of_pem(key, path, error))
}

fn of_pem(key: &'static str, path: &Path, error: PemError) -> TlsError {
    match error {
        PemError::Unreadable(error) => TlsError::Unreadable { key, path: path.to_owned(), error },
        PemError::Wrong(reason) => wrong(key, path, &reason),
    }
}

fn wrong(key: &'static str, path: &Path, reason: &dyn ToString) -> TlsError {
    TlsError::File { key, path: path.to_owned(), reason: reason.to_string() }
}

/// Reads all files, now and whenever they change. Files that are of no use are reported, and
/// nothing changes.
///
/// # Errors
/// As [`load`], for what is there now.
pub(super) fn follow(files: &TlsFiles) -> Result<watch::Receiver<Arc<ServerConfig>>, TlsError> {
    let TlsFiles { certificate, key, client_ca } = files;
    let paths = [certificate, key].into_iter().chain(client_ca).cloned().collect();
    let followed = Followed::new(paths);
    let (sender, receiver) = watch::channel(load(files)?);
    let files = files.clone();
    tokio::spawn(async move {
        let mut changes = followed.changes();
        loop {
            let has_changed = tokio::select! {
                // Nobody makes connections any more.
                () = sender.closed() => return,
                has_changed = changes.next() => has_changed,
            };
            if has_changed {
                read_again(&files, &sender).await;
            }
        }
    });
    Ok(receiver)
}

async fn read_again(files: &TlsFiles, sender: &watch::Sender<Arc<ServerConfig>>) {
    let files = files.clone();
    match spawn_blocking(move || load(&files)).await {
        Ok(Ok(config)) => {
            sender.send_replace(config);
            info!("new connections are made with the TLS files as they are now");
        }
        Ok(Err(error)) => {
            error!(%error, "new connections are still made with the TLS files of before");
        }
        Err(_) => error!("new connections are still made with the TLS files of before"),
    }
}
