//! Reloading: reads files again when they have changed, and when the process is told to (SIGHUP).

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

/// How often it is looked whether a file has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What tells one state of a file from another. None when it cannot be seen.
type Seen = Option<(u64, u64, i64, i64)>;

/// Calls `reload` whenever one of the files is another than before, and at each SIGHUP, until it is
/// aborted. `reload` may block.
///
/// # Errors
/// When the system does not pass on signals.
pub(super) fn start(
    files: Vec<PathBuf>,
    reload: impl Fn() + Clone + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut told = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        let mut before = look(&files).await;
        loop {
            let asked = tokio::select! {
                signal = told.recv() => signal.is_some(),
                () = sleep(LOOK_INTERVAL) => false,
            };
            let now = look(&files).await;
            if asked || now != before {
                let reload = reload.clone();
                let _a_panic_was_reported_by_its_hook = spawn_blocking(reload).await;
                before = now;
            }
        }
    }))
}

async fn look(files: &[PathBuf]) -> Vec<Seen> {
    let files = files.to_vec();
    let seen = spawn_blocking(move || files.iter().map(|file| see(file)).collect()).await;
    seen.unwrap_or_default()
}

fn see(file: &Path) -> Seen {
    let seen = file.metadata().ok()?;
    Some((seen.ino(), seen.len(), seen.mtime(), seen.mtime_nsec()))
}
