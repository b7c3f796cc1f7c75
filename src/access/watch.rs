//! Watching the files: what they say is read again when they have changed, and when SIGHUP comes.

use tracing::{info, warn};

use super::Gate;

impl Gate {
    /// Goes by what the files say whenever they have changed, for ever. What is not right is told,
    /// and nothing changes by it.
    pub async fn watch(self) {
        let mut changes = self.changes();
        loop {
            let has_changed = changes.next().await;
            self.audit().settle();
            if has_changed {
                self.read_again().await;
            }
        }
    }

    async fn read_again(&self) {
        let gate = self.clone();
        match tokio::task::spawn_blocking(move || gate.reload()).await {
            Ok(Ok((principals, keys))) => {
                info!(target: "daybook::audit", principals, keys, "credentials were read again");
            }
            Ok(Err(error)) => warn!(%error, "the credentials stay as they were"),
            Err(_) => warn!("the credentials stay as they were: reading them panicked"),
        }
    }
}
