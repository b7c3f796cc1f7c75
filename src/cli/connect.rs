//! Connecting to a server, and showing it who calls.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use super::{CliError, token::read_token};

/// How large a message may be that a client of ours takes: that of the server, and some more.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where the server is, how both sides prove who they are, and who calls.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConnectArgs {
    /// The address of the server: http://, a host and a port; https:// for TLS, which needs --ca
    #[arg(long, value_name = "URL", env = "DAYBOOK_ADDRESS", hide_env_values = true)]
    #[arg(default_value = "http://127.0.0.1:50051", value_parser = address)]
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

    /// A file with the bearer token to show to the server [default: no token]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
}

/// A connection on which every call shows the token, if there is one. Cheap to clone.
pub(super) type Connection = InterceptedService<Channel, Bearer>;

/// The `authorization` of every call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl ConnectArgs {
    pub(super) async fn connect(&self) -> Result<Connection, CliError> {
        let bearer = self.bearer()?;
        let mut endpoint = Endpoint::from_shared(self.address.clone())?;
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls()?)?;
        }
        let channel = endpoint.tcp_nodelay(true).connect().await?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn bearer(&self) -> Result<Bearer, CliError> {
        let Some(path) = &self.token_file else { return Ok(Bearer(None)) };
        let token = read_token(open(path)?)?;
        crate::access::hash_of(&token)?;
        let value = MetadataValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| CliError::Usage("the token has a control character"))?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
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

/// Finds an address to be one that can be called.
fn address(text: &str) -> Result<String, &'static str> {
    let wrong = "expected a URL, such as http://127.0.0.1:50051";
    let url: Uri = text.parse().map_err(|_| wrong)?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(text.to_owned()),
        (Some("http" | "https"), _) => Err(wrong),
        (_, _) => Err("http:// or https:// is missing, as in http://127.0.0.1:50051"),
    }
}

fn open(path: &Path) -> Result<File, CliError> {
    File::open(path).map_err(|source| CliError::Unreadable { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    fs::read(path).map_err(|source| CliError::Unreadable { path: path.to_owned(), source })
}
