//! Watching the files: what they say is read again when they have changed, and when SIGHUP comes.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing::{info, warn};

use super::{Gate, file::Look};

/// How often it is looked whether a file has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Gate {
    /// Goes by what the files say whenever they have changed, for ever. What is not right is told,
    /// and nothing changes by it.
    pub async fn watch(self) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut seen = self.first_look();
        loop {
            let told = tokio::select! {
                () = sleep(LOOK_INTERVAL) => false,
                () = received(hangup.as_mut()) => true,
            };
            self.audit().settle();
            // Looked at before it is read: what changes meanwhile is read once more.
            let now = self.look_again().await;
            if told || now.is_some_and(|now| now != seen) {
                seen = now.unwrap_or(seen);
                self.read_again().await;
            }
        }
    }

    /// How the files look now. Where they lie may answer slowly.
    async fn look_again(&self) -> Option<[Look; 2]> {
        let gate = self.clone();
        tokio::task::spawn_blocking(move || gate.look()).await.ok()
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

/// The next signal; never where there are none.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
