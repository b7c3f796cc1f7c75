//! What the service manager is told: systemd, where the unit says `Type=notify`.

use sd_notify::NotifyState;
use tracing::warn;

/// The service takes calls.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The service is going to end.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Tells it, if somebody asked for that. Nothing depends on it here.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager cannot be told");
    }
}
