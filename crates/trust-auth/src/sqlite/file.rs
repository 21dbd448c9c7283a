//! [`File`]: the file that is open with its side files, and whether they are still those at their
//! paths. Once they are not, nothing may be read from them: what is revoked in their successors
//! would be granted, and what is written would be lost.

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
    /// Beside the file that a link leads to.
    side_paths: [PathBuf; 2],
    /// `None` where the system tells no identities: then no change is noticed.
    identity: Option<Identity>,
    /// The side files, in the order of [`side_files`], once a connection holds them.
    sides: OnceLock<[Option<Identity>; 2]>,
    sides_are_held: AtomicBool,
    lost: OnceLock<Lost>,
}

/// Device and inode. An inode is not given to another file while this one is open.
type Identity = (u64, u64);

/// Which of the files is not the one that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Database,
    Side,
}

/// Where SQLite keeps what is not in the database yet, and what its processes tell each other:
/// `-wal` and `-shm`, beside the file itself, wherever a link to it is.
pub(super) fn side_files(path: &Path) -> [PathBuf; 2] {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    ["-wal", "-shm"].map(|end| {
        let mut name = OsString::from(&path);
        name.push(end);
        name.into()
    })
}

impl File {
    /// The one that is at this path now, and is open or about to be opened.
    pub(super) fn at(path: PathBuf) -> Self {
        let identity = std::fs::metadata(&path).ok().and_then(|found| identity(&found));
        let side_paths = side_files(&path);
        Self {
            path,
            side_paths,
            identity,
            sides: OnceLock::new(),
            sides_are_held: AtomicBool::new(false),
            lost: OnceLock::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no look has found one of the files replaced so far. No call to the file system.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.lost.get().map_or(Ok(()), |lost| Err(self.error(*lost)))
    }

    /// Looks whether the files are still there, by their names alone: to open one a second time
    /// would drop SQLite's locks on it. Once they were not, they are given up for good, because
    /// connections may be open to either.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        let Some(expected) = self.identity else { return Ok(()) };
        if self.found(&self.path)? != Some(expected) {
            self.lost.get_or_init(|| Lost::Database);
        }
        // Acquire: pairs with the Release in `hold_sides`, so that the files are there.
        if self.sides_are_held.load(Ordering::Acquire) {
            let found = self.sides_found()?;
            // One that is held and not there was removed.
            if found.contains(&None) || *self.sides.get_or_init(|| found) != found {
                self.lost.get_or_init(|| Lost::Side);
            }
        }
        self.check()
    }

    /// From now on a connection holds the side files open. Those that the next look finds must
    /// stay.
    pub(super) fn hold_sides(&self) {
        // Release: pairs with the Acquire in `look`.
        self.sides_are_held.store(true, Ordering::Release);
    }

    /// Whether side files are there that others have made in the place of ours. If that cannot be
    /// told, they are.
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

    /// What is at this path; `None` if nothing is.
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
            format!("whether it is still there cannot be told: {error}; check the file system");
        StoreError::CannotOpen { path: self.path.clone(), reason }
    }

    fn error(&self, lost: Lost) -> StoreError {
        let reason = match lost {
            Lost::Database => {
                "it was removed or replaced while it was open; stop the program, remove the files beside it that end in `-wal` and `-shm`, put \
                 the file in place once more, and start the program"
            }
            Lost::Side => {
                "the files beside it that end in `-wal` and `-shm` were removed or replaced while it was open; stop the program, leave the \
                 files as they are then, start it again, and check the last changes with `trust-auth list`"
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
        assert!(
            matches!(&error, StoreError::CannotOpen { path: named, .. } if *named == path),
            "{error:?}"
        );
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
    fn side_files_are_the_same_from_when_they_are_held_and_until_one_is_another() {
        for (end, is_removed) in [("-wal", true), ("-wal", false), ("-shm", true), ("-shm", false)]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("trusts.db");
            for name in ["trusts.db", "trusts.db-wal", "trusts.db-shm"] {
                std::fs::write(folder.path().join(name), "one").unwrap();
            }
            let file = File::at(path.clone());
            std::fs::remove_file(folder.path().join("trusts.db-wal")).unwrap();
            assert!(file.look().is_ok(), "they are not held yet");
            std::fs::write(folder.path().join("trusts.db-wal"), "two").unwrap();
            file.hold_sides();
            assert!(file.look().is_ok() && !file.has_others_sides());
            let side = folder.path().join(format!("trusts.db{end}"));
            let kept = folder.path().join("kept");
            std::fs::rename(&side, &kept).unwrap();
            if !is_removed {
                std::fs::write(&side, "another's").unwrap();
            }
            let error = file.look().unwrap_err().to_string();
            assert!(error.contains("`-wal` and `-shm` were removed or replaced"), "{error}");
            assert_eq!(file.has_others_sides(), !is_removed);
            std::fs::rename(&kept, &side).unwrap();
            assert!(file.look().is_err() && file.check().is_err(), "given up for good");
        }
    }

    #[test]
    fn side_files_that_are_gone_before_they_are_held_are_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusts.db");
        std::fs::write(&path, "one").unwrap();
        let file = File::at(path);
        file.hold_sides();
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
