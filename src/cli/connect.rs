//! Connecting to a server.

use tonic::transport::{Channel, Endpoint};

use super::CliError;

/// How large a message may be that a client of ours takes: that of the server, and some more.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where the server is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConnectArgs {
    /// The address of the server
    #[arg(long, value_name = "URL", env = "DAYBOOK_ADDRESS", hide_env_values = true)]
    #[arg(default_value = "http://127.0.0.1:50051")]
    address: String,
}

impl ConnectArgs {
    pub(super) async fn connect(&self) -> Result<Channel, CliError> {
        let endpoint = Endpoint::from_shared(self.address.clone())?;
        Ok(endpoint.tcp_nodelay(true).connect().await?)
    }
}
