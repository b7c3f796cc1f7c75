//! The place of the data directory: whether its path still leads to what the log is in. Another
//! server may be started over what is there instead, and who looks after backups looks there.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::error;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Ends once a path leads to another directory than it did, or to none. What cannot be looked at is
/// still there.
pub(super) async fn left(path: PathBuf) {
    let mut before = None;
    loop {
        let looked_at = path.clone();
        // Where it lies may answer slowly.
        if let Ok(Ok(now)) = spawn_blocking(move || look(&looked_at)).await {
            if now.is_none() || before.is_some_and(|before| now != before) {
                error!(path = %path.display(), "the data directory was moved or removed");
                return;
            }
            before = Some(now);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Which directory a path leads to; `None` where there is none.
fn look(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_directory_that_is_not_there_any_more_is_noticed() {
        for is_replaced in [false, true] {
            let parent = tempfile::tempdir().unwrap();
            let (path, elsewhere) = (parent.path().join("data"), parent.path().join("elsewhere"));
            fs::create_dir(&path).unwrap();
            let mut left = Box::pin(left(path.clone()));
            let nothing = timeout(LOOK_INTERVAL * 2, left.as_mut()).await;
            assert!(nothing.is_err(), "it is there");
            fs::rename(&path, &elsewhere).unwrap();
            if is_replaced {
                fs::create_dir(&path).unwrap();
            }
            timeout(LOOK_INTERVAL * 5, left).await.expect("it is noticed");
        }
    }
}
