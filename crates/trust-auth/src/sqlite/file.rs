//! [`File`]: checks whether the open file and its side files are still the files at their paths.
//!
//! After another program has replaced a file, the open file must not be used. A key that is revoked
//! in the new file would be granted, and writes would be lost.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::StoreError;

/// A database's file.
pub(super) struct File {
    path: PathBuf,
    /// Next to the target of a link.
    side_paths: [PathBuf; 2],
    /// `None` on a system without file identities, where no replacement is noticed.
    identity: Option<Identity>,
    /// The identities of the side files, in the order of [`side_files`], once a connection holds
    /// them open.
    sides: OnceLock<[Option<Identity>; 2]>,
    sides_are_held: AtomicBool,
    lost: OnceLock<Lost>,
}

/// Device and inode. While a file is open, no other file has its inode.
type Identity = (u64, u64);

/// The file that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Database,
    Side,
}

/// Returns the paths of `-wal`, the log of commits that are not in the database yet, and `-shm`,
/// the memory that SQLite's processes share. Both are next to the target of a link.
pub(super) fn side_files(path: &Path) -> [PathBuf; 2] {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    ["-wal", "-shm"].map(|end| {
        let mut name = OsString::from(&path);
        name.push(end);
        name.into()
    })
}

impl File {
    /// Returns the file that is at this path now, and is open or about to be opened.
    ///
    /// # Errors
    ///
    /// [`StoreError::CannotOpen`] if there is none: without its identity, no check would notice a
    /// replacement.
    pub(super) fn at(path: PathBuf) -> Result<Self, StoreError> {
        let identity = match std::fs::metadata(&path) {
            Ok(found) => identity(&found),
            Err(error) => {
                let reason = format!("{error}; try again when the file is back");
                return Err(StoreError::CannotOpen { path, reason });
            }
        };
        let side_paths = side_files(&path);
        Ok(Self {
            path,
            side_paths,
            identity,
            sides: OnceLock::new(),
            sides_are_held: AtomicBool::new(false),
            lost: OnceLock::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an error if [`verify`](Self::verify) has found a file replaced. No system call.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.lost.get().map_or(Ok(()), |lost| Err(self.error(*lost)))
    }

    /// Checks that the files at the paths are still the open files. Opens no file: closing it would
    /// drop SQLite's locks on it.
    ///
    /// # Errors
    ///
    /// [`StoreError::CannotOpen`] if a file was replaced. From then on every check fails, even if
    /// the former file returns: connections may be open to either.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        let Some(expected) = self.identity else { return Ok(()) };
        if self.found(&self.path)? != Some(expected) {
            self.lost.get_or_init(|| Lost::Database);
        }
        // Acquire: pairs with the Release in `hold_sides`, so that the side files exist.
        if self.sides_are_held.load(Ordering::Acquire) {
            let found = self.sides_found()?;
            // A side file that is held open and missing was removed.
            if found.contains(&None) || *self.sides.get_or_init(|| found) != found {
                self.lost.get_or_init(|| Lost::Side);
            }
        }
        self.check()
    }

    /// Records that a connection holds the side files open. The side files at the next check must
    /// not change afterwards.
    pub(super) fn hold_sides(&self) {
        // Release: pairs with the Acquire in `verify`.
        self.sides_are_held.store(true, Ordering::Release);
    }

    /// Returns whether another program has replaced a side file. If the check fails, the answer is
    /// `true`.
    pub(super) fn has_others_sides(&self) -> bool {
        let Some(ours) = self.sides.get() else { return false };
        match self.sides_found() {
            Ok(found) => {
                found.iter().zip(ours).any(|(found, ours)| found.is_some() && found != ours)
            }
            Err(_) => true,
        }
    }

    fn sides_found(&self) -> Result<[Option<Identity>; 2], StoreError> {
        let [wal, shm] = &self.side_paths;
        Ok([self.found(wal)?, self.found(shm)?])
    }

    /// Returns the identity of the file at this path; `None` if there is no file.
    fn found(&self, path: &Path) -> Result<Option<Identity>, StoreError> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(identity(&found)),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(error) => Err(self.unknown(&error)),
        }
    }

    fn unknown(&self, error: &Error) -> StoreError {
        let reason =
            format!("the check whether it is still there failed: {error}; check the file system");
        StoreError::CannotOpen { path: self.path.clone(), reason }
    }

    fn error(&self, lost: Lost) -> StoreError {
        let reason = match lost {
            Lost::Database => {
                "it was removed or replaced while it was open; stop the program, remove the files \
                 next to it that end in `-wal` and `-shm`, put the file in place once more, start \
                 the program, and check the last changes with `trust-auth list`"
            }
            Lost::Side => {
                "the files next to it that end in `-wal` and `-shm` were removed or replaced while \
                 it was open; stop the program, leave the files as they are then, start it again, \
                 and check the last changes with `trust-auth list`"
            }
        };
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
    fn a_file_is_the_same_until_it_is_replaced_and_never_again_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusts.db");
        std::fs::write(&path, "one").unwrap();
        let file = File::at(path.clone()).unwrap();
        std::fs::write(&path, "one, longer").unwrap();
        assert!(file.verify().is_ok());
        let kept = folder.path().join("kept.db");
        std::fs::rename(&path, &kept).unwrap();
        assert!(file.check().is_ok(), "no check was made yet");
        let error = file.verify().unwrap_err();
        assert!(
            matches!(&error, StoreError::CannotOpen { path: named, .. } if *named == path),
            "{error:?}"
        );
        std::fs::rename(&kept, &path).unwrap();
        assert!(file.verify().is_err() && file.check().is_err());

        let file = File::at(path.clone()).unwrap();
        std::fs::write(&kept, "another").unwrap();
        std::fs::rename(&kept, &path).unwrap();
        assert!(file.verify().is_err());

        let folder = folder.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("trusts.db"), "one").unwrap();
        let file = File::at(folder.join("trusts.db")).unwrap();
        std::fs::rename(&folder, folder.with_file_name("elsewhere")).unwrap();
        std::fs::write(&folder, "no folder").unwrap();
        assert!(file.verify().is_err() && file.check().is_err());
    }

    #[test]
    fn held_side_files_are_the_same_until_one_is_replaced() {
        for (end, is_removed) in [("-wal", true), ("-wal", false), ("-shm", true), ("-shm", false)]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("trusts.db");
            for name in ["trusts.db", "trusts.db-wal", "trusts.db-shm"] {
                std::fs::write(folder.path().join(name), "one").unwrap();
            }
            let file = File::at(path.clone()).unwrap();
            std::fs::remove_file(folder.path().join("trusts.db-wal")).unwrap();
            assert!(file.verify().is_ok(), "they are not held yet");
            std::fs::write(folder.path().join("trusts.db-wal"), "two").unwrap();
            file.hold_sides();
            assert!(file.verify().is_ok() && !file.has_others_sides());
            let side = folder.path().join(format!("trusts.db{end}"));
            let kept = folder.path().join("kept");
            std::fs::rename(&side, &kept).unwrap();
            if !is_removed {
                std::fs::write(&side, "another's").unwrap();
            }
            let error = file.verify().unwrap_err().to_string();
            assert!(error.contains("`-wal` and `-shm` were removed or replaced"), "{error}");
            assert_eq!(file.has_others_sides(), !is_removed);
            std::fs::rename(&kept, &side).unwrap();
            assert!(file.verify().is_err() && file.check().is_err(), "given up for good");
        }
    }

    #[test]
    fn side_files_that_are_removed_before_they_are_held_are_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusts.db");
        std::fs::write(&path, "one").unwrap();
        let file = File::at(path).unwrap();
        file.hold_sides();
        assert!(file.verify().is_err() && file.check().is_err());
    }

    #[test]
    fn a_check_that_fails_is_an_error_and_does_not_count_as_a_replacement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusts.db");
        std::fs::write(&path, "one").unwrap();
        let file = File::at(path.clone()).unwrap();
        let kept = folder.path().join("kept.db");
        std::fs::rename(&path, &kept).unwrap();
        // A link that leads to itself: too many levels of them.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = file.verify().unwrap_err();
        assert!(
            error.to_string().contains("the check whether it is still there failed"),
            "{error}"
        );
        std::fs::rename(&kept, &path).unwrap();
        assert!(file.verify().is_ok());
    }
}
