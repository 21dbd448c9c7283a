//! [`File`]: the file that is open, and whether it is still the one at its path. Once it is not, nothing may be read from it: what is
//! revoked in its successor would be granted, and what is written would be lost.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::StoreError;

/// A database's file.
pub(super) struct File {
    path: PathBuf,
    /// `None` where the system tells no identities: then no change is noticed.
    identity: Option<Identity>,
    replaced: AtomicBool,
}

/// Device and inode. An inode is not given to another file while this one is open.
type Identity = (u64, u64);

impl File {
    /// The one that is at this path now, and is open or about to be opened.
    pub(super) fn at(path: PathBuf) -> Self {
        let identity = std::fs::metadata(&path).ok().and_then(|found| identity(&found));
        Self { path, identity, replaced: AtomicBool::new(false) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody has found it replaced so far.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        // Relaxed: the flag is all there is to see.
        if self.replaced.load(Ordering::Relaxed) { Err(self.lost()) } else { Ok(()) }
    }

    /// Looks whether it is still there, by its name alone: to open it a second time would drop SQLite's locks on it. Once it was not, it is
    /// given up for good, because connections may be open to either.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        let Some(expected) = self.identity else { return Ok(()) };
        let found = match std::fs::metadata(&self.path) {
            Ok(found) => identity(&found),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
            Err(error) => {
                let reason =
                    format!("whether it is still there cannot be told: {error}; check the file system");
                return Err(StoreError::CannotOpen { path: self.path.clone(), reason });
            }
        };
        if found != Some(expected) {
            // Relaxed: as in `check`.
            self.replaced.store(true, Ordering::Relaxed);
        }
        self.check()
    }

    fn lost(&self) -> StoreError {
        let reason = "it was removed or replaced while it was open; stop the program, remove the files beside it that end in `-wal` and `-shm`, put \
             the file in place once more, and start the program";
        StoreError::CannotOpen { path: self.path.clone(), reason: reason.into() }
    }
}

#[cfg(unix)]
fn identity(found: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<Identity> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_until_another_has_its_name_and_never_again_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusts.db");
        std::fs::write(&path, "one").unwrap();
        let file = File::at(path.clone());
        std::fs::write(&path, "one, longer").unwrap();
        assert!(file.look().is_ok());
        let kept = folder.path().join("kept.db");
        std::fs::rename(&path, &kept).unwrap();
        assert!(file.check().is_ok(), "nobody has looked");
        let error = file.look().unwrap_err();
        assert!(matches!(&error, StoreError::CannotOpen { path: named, .. } if *named == path), "{error:?}");
        std::fs::rename(&kept, &path).unwrap();
        assert!(file.look().is_err() && file.check().is_err());

        let file = File::at(path.clone());
        std::fs::write(&kept, "another").unwrap();
        std::fs::rename(&kept, &path).unwrap();
        assert!(file.look().is_err());

        let folder = folder.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("trusts.db"), "one").unwrap();
        let file = File::at(folder.join("trusts.db"));
        std::fs::rename(&folder, folder.with_file_name("elsewhere")).unwrap();
        std::fs::write(&folder, "no folder").unwrap();
        assert!(file.look().is_err() && file.check().is_err());
    }

    #[test]
    fn what_cannot_be_told_is_an_error_and_no_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusts.db");
        std::fs::write(&path, "one").unwrap();
        let file = File::at(path.clone());
        let kept = folder.path().join("kept.db");
        std::fs::rename(&path, &kept).unwrap();
        // A link that leads to itself: too many levels of them.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = file.look().unwrap_err();
        assert!(error.to_string().contains("whether it is still there cannot be told"), "{error}");
        std::fs::rename(&kept, &path).unwrap();
        assert!(file.look().is_ok());
    }
}
