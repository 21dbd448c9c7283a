//! Makes the database's file, readable by its owner alone. SQLite would make a file that all users
//! can read. SQLite gives its side files the mode of the database.

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::file::side_files;
use super::location::Location;
use crate::error::StoreError;

/// Held while a store of this process finds or makes its file. Closing a file drops all locks of
/// the process on that file, including SQLite's. While one store makes a file, no other store of
/// the process has opened the file yet.
static OPENING: Mutex<()> = Mutex::new(());

/// Returns whether the file exists, after making it if `may_create`.
pub(super) fn find_or_make(location: &Location, may_create: bool) -> Result<bool, StoreError> {
    // A panic under the lock leaves no inconsistent state.
    let _turn = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if location.exists()? {
        return Ok(true);
    }
    if may_create {
        make(&location.path).map_err(|error| not_made(&error, &location.path))?;
    }
    Ok(may_create)
}

/// Makes the file, through a link too, as SQLite would. A file that another process has made
/// meanwhile stays unchanged.
fn make(path: &Path) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn not_made(error: &Error, path: &Path) -> StoreError {
    let reason = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "the disk is full; make room",
        ErrorKind::ReadOnlyFilesystem => {
            "its file system is mounted read-only; choose another folder"
        }
        _ => {
            "it cannot be read or made; check that its folder exists, and the permissions of both, \
             and that the file system is not mounted read-only"
        }
    };
    StoreError::CannotOpen { path: path.into(), reason: reason.into() }
}

/// Warns of each file of the database that every user of the machine can read or write.
#[cfg(unix)]
pub(super) fn warn_if_public(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for file in side_files(path).into_iter().chain([path.to_owned()]) {
        // A missing file has no mode.
        let Ok(found) = std::fs::metadata(&file) else { continue };
        let mode = found.permissions().mode();
        if mode & 0o007 != 0 {
            tracing::warn!(
                file = %file.display(),
                "every user of this machine can read or write this file of the database; take that \
                 away, as by `chmod o-rwx`"
            );
        }
    }
}

#[cfg(not(unix))]
pub(super) fn warn_if_public(_: &Path) {}
