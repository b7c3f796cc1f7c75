//! TLS to the collector: whom the server believes, and what it shows, by the files that the
//! environment names. They are read once, at the start.

use std::{path::PathBuf, time::Duration};

use tokio_rustls::rustls::{self, crypto::ring, pki_types::CertificateDer, sign::CertifiedKey};
use tonic::transport::{ClientTlsConfig, Identity};

use crate::ops::{
    config::environment::{NamedFile, Secured},
    pem::{self, PemError},
};

/// How long a handshake may take: the exporter itself gives a collector as long for its answer.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Why TLS to the collector cannot be as the variables say.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// A file cannot be read.
    #[error("{name} = {:?}: {error}", path.display().to_string())]
    Unreadable {
        /// The variable that names it.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file has not what it should have.
    #[error("{name} = {:?}: {reason}", path.display().to_string())]
    File {
        /// The variable that names it.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong. Never what is in it.
        reason: String,
    },
    /// A certificate and a key do not go together.
    #[error("{certificate} and {key}: {error}")]
    Pair {
        /// The variable that names the one.
        certificate: &'static str,
        /// And the other.
        key: &'static str,
        /// What is wrong.
        error: rustls::Error,
    },
    /// There is nobody whom the collector's certificate could be of.
    #[error(
        "{endpoint}: the system has no authorities for https://: \
         name a file with them in OTEL_EXPORTER_OTLP_CERTIFICATE"
    )]
    NoRoots {
        /// The variable that names the collector.
        endpoint: &'static str,
    },
}

/// What the exporter needs for it.
pub(super) fn tls(secured: &Secured) -> Result<ClientTlsConfig, CollectorError> {
    let roots = if let Some(file) = &secured.roots {
        read(file, pem::roots)?.1
    } else {
        let endpoint = secured.endpoint;
        pem::system_roots().ok_or(CollectorError::NoRoots { endpoint })?
    };
    let tls = ClientTlsConfig::new().trust_anchors(roots.roots).timeout(HANDSHAKE_WITHIN);
    match &secured.identity {
        Some([certificate, key]) => Ok(tls.identity(identity(certificate, key)?)),
        None => Ok(tls),
    }
}

fn identity(certificate: &NamedFile, key: &NamedFile) -> Result<Identity, CollectorError> {
    let (chain_text, chain) = read(certificate, pem::certificates)?;
    let (key_text, private_key) = read(key, pem::private_key)?;
    let goes_together = |chain: Vec<CertificateDer<'static>>| {
        CertifiedKey::from_der(chain, private_key, &ring::default_provider())
    };
    goes_together(chain).map_err(|error| CollectorError::Pair {
        certificate: certificate.name,
        key: key.name,
        error,
    })?;
    Ok(Identity::from_pem(chain_text, key_text))
}

/// A file as it is, and what is in it.
fn read<T>(
    file: &NamedFile,
    parse: impl FnOnce(&[u8]) -> Result<T, PemError>,
) -> Result<(Vec<u8>, T), CollectorError> {
    let text = pem::read(&file.path).map_err(|error| of_pem(file, error))?;
    let parsed = parse(&text).map_err(|error| of_pem(file, error))?;
    Ok((text, parsed))
}

fn of_pem(file: &NamedFile, error: PemError) -> CollectorError {
    match error {
        PemError::Unreadable(error) => {
            CollectorError::Unreadable { name: file.name, path: file.path.clone(), error }
        }
        PemError::Wrong(reason) => wrong(file, reason.to_owned()),
    }
}

fn wrong(file: &NamedFile, reason: String) -> CollectorError {
    CollectorError::File { name: file.name, path: file.path.clone(), reason }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// A certificate and its key, as PEM.
    fn pair() -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["collector.example".to_owned()]).unwrap();
        [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
    }

    fn file(directory: &TempDir, name: &'static str, text: &str) -> NamedFile {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        NamedFile { name, path }
    }

    fn told(secured: &Secured, directory: &Path) -> String {
        let told = tls(secured).map(drop).unwrap_err().to_string();
        told.replace(directory.to_str().unwrap(), "DIR")
    }

    #[test]
    fn files_that_are_of_no_use_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = pair();
        let roots = || Some(file(&directory, "CERTIFICATE", &certificate));
        let own = |text: &str| file(&directory, "CLIENT_CERTIFICATE", text);
        let its_key = |text: &str| file(&directory, "CLIENT_KEY", text);
        let secured = |roots, identity| Secured { endpoint: "ENDPOINT", roots, identity };
        let good = Some([own(&certificate), its_key(&key)]);
        assert!(tls(&secured(roots(), None)).is_ok());
        assert!(tls(&secured(roots(), good)).is_ok());

        let tell = |secured| told(&secured, directory.path());
        let gone = NamedFile { name: "CERTIFICATE", path: directory.path().join("gone") };
        assert_eq!(
            tell(secured(Some(gone), None)),
            "CERTIFICATE = \"DIR/gone\": No such file or directory (os error 2)"
        );
        let none = file(&directory, "CERTIFICATE", "secret");
        assert_eq!(
            tell(secured(Some(none), None)),
            "CERTIFICATE = \"DIR/CERTIFICATE\": no certificate in it"
        );
        let begun = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let half = file(&directory, "CERTIFICATE", begun);
        let not_valid = "CERTIFICATE = \"DIR/CERTIFICATE\": not valid PEM";
        assert_eq!(tell(secured(Some(half), None)), not_valid);
        let other = begun.replace('!', "AAAA");
        let wrong = tell(secured(Some(file(&directory, "CERTIFICATE", &other)), None));
        assert!(wrong.starts_with("CERTIFICATE = \"DIR/CERTIFICATE\": "), "{wrong}");

        let identity = Some([own("secret"), its_key(&key)]);
        assert_eq!(
            tell(secured(roots(), identity)),
            "CLIENT_CERTIFICATE = \"DIR/CLIENT_CERTIFICATE\": no certificate in it"
        );
        let identity = Some([own(&certificate), its_key("secret")]);
        assert_eq!(
            tell(secured(roots(), identity)),
            "CLIENT_KEY = \"DIR/CLIENT_KEY\": no private key in it"
        );
        let [_, other_key] = pair();
        let wrong = tell(secured(roots(), Some([own(&certificate), its_key(&other_key)])));
        assert!(wrong.starts_with("CLIENT_CERTIFICATE and CLIENT_KEY: "), "{wrong}");
    }
}
