//! Connecting to a server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::CliError;

/// How large a message may be that a client of ours takes: that of the server, and some more.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where the server is, and how both sides prove who they are.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConnectArgs {
    /// The address of the server; https:// for TLS, which needs --ca
    #[arg(long, value_name = "URL", env = "DAYBOOK_ADDRESS", hide_env_values = true)]
    #[arg(default_value = "http://127.0.0.1:50051")]
    address: String,

    /// The authorities that the server's certificate may be of, as PEM
    #[arg(long, value_name = "FILE", env = "DAYBOOK_CA", hide_env_values = true)]
    ca: Option<PathBuf>,

    /// The client's own certificate, as PEM, where the server asks for one; needs --key
    #[arg(long, value_name = "FILE", env = "DAYBOOK_CERTIFICATE", hide_env_values = true)]
    #[arg(requires = "key")]
    certificate: Option<PathBuf>,

    /// The private key of that certificate, as PEM
    #[arg(long, value_name = "FILE", env = "DAYBOOK_KEY", hide_env_values = true)]
    #[arg(requires = "certificate")]
    key: Option<PathBuf>,
}

impl ConnectArgs {
    pub(super) async fn connect(&self) -> Result<Channel, CliError> {
        let mut endpoint = Endpoint::from_shared(self.address.clone())?;
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls()?)?;
        }
        Ok(endpoint.tcp_nodelay(true).connect().await?)
    }

    fn tls(&self) -> Result<ClientTlsConfig, CliError> {
        let Some(ca) = &self.ca else {
            return Err(CliError::Usage("an address with https:// needs --ca"));
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    fs::read(path).map_err(|source| CliError::Unreadable { path: path.to_owned(), source })
}
