//! Trust: what calls are let in by, such as a key, until the files take it away.

use tokio::sync::watch;

/// Whether something still counts. Once it does not, it never does again.
#[derive(Debug)]
pub struct Trust(watch::Sender<bool>);

impl Trust {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(true))
    }

    /// Waits until it does not count any more.
    pub async fn ended(&self) {
        let mut lasts = self.0.subscribe();
        // The sender lives as long as this.
        let _ended = lasts.wait_for(|lasts| !*lasts).await;
    }

    pub(super) fn end(&self) {
        self.0.send_replace(false);
    }
}
