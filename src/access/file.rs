//! Files of secrets and keys: read whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

/// How large a file may be: thousands of principals, and little enough to read at each change.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The bits of a mode that say who may do what.
const MODE_BITS: u32 = 0o7777;
/// What a secret file has at most that is the server's own user's.
const MODE_OWN: u32 = 0o600;
/// What one has at most that is root's: a service manager or a cluster shows it to the server by
/// its group, and root may read everything anyway. PostgreSQL has the same rule.
const MODE_OF_ROOT: u32 = 0o640;

/// The user who may do everything.
const ROOT: u32 = 0;

/// Why a file cannot be used. It never tells what the file says.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not there, or may not be read.
    #[error("{setting}: the file {} could not be read: {source}", path.display())]
    Unreadable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file, as it was named.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than its owner may read or change it.
    #[error(
        "{setting}: the file {} has the mode {mode:04o}: at most 0600 is right, or 0640 for a file \
         of root, so that nobody else can read it",
        path.display()
    )]
    Mode {
        /// The setting that names the file.
        setting: &'static str,
        /// The file, as it was named.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is larger than any such file.
    #[error("{setting}: the file {} has more than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The setting that names the file.
        setting: &'static str,
        /// The file, as it was named.
        path: PathBuf,
    },
    /// It says something that is not right.
    #[error("{setting}: the file {} is not right: {wrong}", path.display())]
    Wrong {
        /// The setting that names the file.
        setting: &'static str,
        /// The file, as it was named.
        path: PathBuf,
        /// Where and what.
        wrong: Wrong,
    },
}

/// What is not right in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The line, counted from 1, where that is known.
    pub line: Option<usize>,
    /// What, without anything that the file says but names of keys.
    pub what: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// A file that a setting names.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) setting: &'static str,
    pub(super) path: PathBuf,
    /// Whether only its owner may be able to read it.
    pub(super) is_secret: bool,
}

impl Named {
    /// What the file says.
    pub(super) fn read(&self) -> Result<String, LoadError> {
        let (setting, path) = (self.setting, || self.path.clone());
        let unreadable = |source| LoadError::Unreadable { setting, path: path(), source };
        let file = File::open(&self.path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.mode() & MODE_BITS;
        if self.is_secret && mode & !mode_max(metadata.uid(), own_user()) != 0 {
            return Err(LoadError::Mode { setting, path: path(), mode });
        }
        let mut file = file.take(FILE_BYTES_MAX.saturating_add(1));
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(unreadable)?;
        if file.limit() == 0 {
            return Err(LoadError::TooLarge { setting, path: path() });
        }
        String::from_utf8(bytes)
            .map_err(|_| self.wrong(Wrong { line: None, what: "it is not UTF-8".to_owned() }))
    }

    pub(super) fn wrong(&self, wrong: Wrong) -> LoadError {
        LoadError::Wrong { setting: self.setting, path: self.path.clone(), wrong }
    }
}

/// What mode a secret file has at most that is of user `owner`, where the server runs as `own`.
fn mode_max(owner: u32, own: u32) -> u32 {
    if owner == ROOT && own != ROOT { MODE_OF_ROOT } else { MODE_OWN }
}

/// The user that the server runs as; root, for whom less is right, where the system does not say.
fn own_user() -> u32 {
    fs::metadata("/proc/self").map_or(ROOT, |own| own.uid())
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    fn named(path: &Path, is_secret: bool) -> Named {
        Named { setting: "credentials", path: path.to_owned(), is_secret }
    }

    #[test]
    fn a_secret_file_is_its_owners_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let set = |mode| fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        for mode in [0o400, 0o600, 0o200] {
            set(mode);
            // The owner of this test may be root, who reads everything.
            assert!(!matches!(named(file.path(), true).read(), Err(LoadError::Mode { .. })));
        }
        for mode in [0o640, 0o604, 0o644, 0o700, 0o620, 0o602, 0o610, 0o601, 0o4600, 0o666] {
            set(mode);
            let error = named(file.path(), true).read().unwrap_err().to_string();
            assert!(error.contains(&format!("has the mode {mode:04o}: at most 0600")), "{error}");
            assert_eq!(named(file.path(), false).read().unwrap(), "", "public keys are no secret");
        }
    }

    #[test]
    fn a_file_of_root_may_be_shown_to_the_servers_group() {
        assert_eq!([mode_max(0, 7), mode_max(7, 7), mode_max(0, 0)], [0o640, 0o600, 0o600]);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(own_user(), file.as_file().metadata().unwrap().uid());
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let largest = usize::try_from(FILE_BYTES_MAX).unwrap();
        fs::write(file.path(), "x".repeat(largest)).unwrap();
        assert_eq!(named(file.path(), true).read().unwrap().len(), largest);
        fs::write(file.path(), "x".repeat(largest + 1)).unwrap();
        assert!(matches!(named(file.path(), true).read(), Err(LoadError::TooLarge { .. })));
        fs::write(file.path(), [0xff]).unwrap();
        assert!(matches!(named(file.path(), true).read(), Err(LoadError::Wrong { .. })));
        let error = named(Path::new("no/such/file"), true).read().unwrap_err().to_string();
        assert_eq!(
            error,
            "credentials: the file no/such/file could not be read: No such file or directory (os \
             error 2)"
        );
    }
}
