//! Followed files: seen to change without being read, and read again when SIGHUP comes.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};

/// How often it is looked whether a file has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After how many changes in a row files are read that never rest.
const CHANGES_MAX: u32 = 5;

/// What tells two states of a file apart. None when it cannot be looked at.
type Look = Option<(u64, u64, i64, i64, u32)>;

/// Files, and how they looked when they were last looked at.
#[derive(Clone, Debug)]
pub struct Followed {
    files: Vec<PathBuf>,
    seen: Vec<Look>,
}

/// The changes of files, one after another.
#[derive(Debug)]
pub struct Changes {
    followed: Followed,
    /// How often in a row they looked different, and were not read since.
    unread: u32,
    hangup: Option<Signal>,
}

impl Followed {
    /// Looks at files that are to be read after this: what changes meanwhile is seen later. May
    /// block.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        let seen = files.iter().map(look).collect();
        Self { files, seen }
    }

    /// What changes from now on. On a runtime.
    #[must_use]
    pub fn changes(self) -> Changes {
        Changes { followed: self, unread: 0, hangup: signal(SignalKind::hangup()).ok() }
    }
}

impl Changes {
    /// Waits a moment, or until SIGHUP. Gives whether the files are to be read again: at once when
    /// SIGHUP says so, else when they have changed and then did not for a moment, or change all the
    /// time. What is half written may say less than it will, and be right as it is.
    pub async fn next(&mut self) -> bool {
        let told = tokio::select! {
            () = sleep(LOOK_INTERVAL) => false,
            () = received(self.hangup.as_mut()) => true,
        };
        // Where they lie may answer slowly.
        let files = self.followed.files.clone();
        let Ok(now) = spawn_blocking(move || Followed::new(files)).await else { return told };
        let has_changed = now.seen != self.followed.seen;
        self.followed = now;
        self.unread = self.unread.saturating_add(u32::from(has_changed));
        let is_due = self.unread > 0 && (!has_changed || self.unread >= CHANGES_MAX);
        if told || is_due {
            self.unread = 0;
        }
        told || is_due
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

fn look(file: &PathBuf) -> Look {
    let metadata = fs::metadata(file).ok()?;
    Some((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.mode(),
    ))
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_change_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut looks = vec![look(&path)];
        assert_eq!(looks, [None]);
        fs::write(&path, "one").unwrap();
        looks.push(look(&path));
        fs::write(&path, "three").unwrap();
        looks.push(look(&path));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        looks.push(look(&path));
        let new = directory.path().join("new");
        fs::write(&new, "three").unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, &path).unwrap();
        looks.push(look(&path));
        assert_eq!(look(&path), looks[4]);
        for (index, look) in looks.iter().enumerate() {
            assert!(!looks[..index].contains(look), "look {index} of {looks:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_when_it_has_settled() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut changes = Followed::new(vec![file.path().to_owned()]).changes();
        assert!(!changes.next().await);
        for length in 1..=2 {
            fs::write(file.path(), "x".repeat(length)).unwrap();
            assert!(!changes.next().await, "there may be more of it");
        }
        assert!(changes.next().await);
        assert!(!changes.next().await, "once");
        for length in 1..=CHANGES_MAX {
            fs::write(file.path(), "y".repeat(length as usize)).unwrap();
            assert_eq!(changes.next().await, length == CHANGES_MAX, "it may never rest");
        }
    }
}
