//! Where the server listens, once for calls and once for probes.

use std::net::SocketAddr;

use super::{Config, ConfigError};

impl Config {
    /// The two addresses must not be in each other's way: the second could not be listened on, and
    /// the system would only say that it is taken.
    pub(super) fn expect_apart(&self) -> Result<(), ConfigError> {
        match self.operations_listen {
            Some(operations_listen) if are_one(self.listen, operations_listen) => {
                Err(ConfigError::OneAddress { listen: self.listen, operations_listen })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether who listens on one takes the other as well. Port 0 is another one each time.
fn are_one(one: SocketAddr, other: SocketAddr) -> bool {
    let are_of_one_kind = one.is_ipv4() == other.is_ipv4();
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_same = one.ip() == other.ip() || (are_of_one_kind && is_any);
    one.port() != 0 && one.port() == other.port() && is_same
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parse, resolve_with_file};
    use crate::ops::config::resolve;

    #[test]
    fn probes_have_an_address_of_their_own() {
        let resolved = |listen: &str, operations: &str| {
            let flags = [format!("--listen={listen}"), format!("--operations-listen={operations}")];
            resolve(parse(&[&flags[0], &flags[1], "--insecure"]))
        };
        for (listen, operations) in [
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            ("[::1]:9464", "[::1]:9464"),
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("127.0.0.1:9464", "0.0.0.0:9464"),
            ("[::]:9464", "[::1]:9464"),
        ] {
            assert_eq!(
                resolved(listen, operations).unwrap_err().to_string(),
                format!(
                    "listen = \"{listen}\" and operations_listen = \"{operations}\" need \
                     different ports, or different addresses"
                )
            );
        }
        for (listen, operations) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:9464", "127.0.0.1:9465"),
            ("127.0.0.1:9464", "127.0.0.2:9464"),
            ("0.0.0.0:9464", "[::1]:9464"),
        ] {
            assert!(resolved(listen, operations).is_ok(), "{listen} {operations}");
        }
        // The default is an address as well.
        assert!(resolve_with_file("operations_listen = '127.0.0.1:50051'", &[]).is_err());
    }
}
