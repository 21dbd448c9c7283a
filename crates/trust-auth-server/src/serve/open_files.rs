//! The limit of open files and sockets. If it is too low, idle clients of the main listener can
//! keep out the admin API and new connections to the database.

/// Output, listeners, timers, and a file that is read.
const OTHER_FILES: u64 = 32;

/// A SQLite connection opens the file and its `-wal`, and maps `-shm`. The watcher and the writer
/// have connections of their own.
const FILES_OF_A_DATABASE_CONNECTION: u64 = 4;

/// Raises the soft limit to the hard limit. The soft limit is low for the sake of programs that use
/// `select(2)`, which this program does not.
pub(crate) fn raise_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // If the system refuses, the service logs the warning about too low a limit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Returns how many files may be open, or `None` if the system has no such limit.
pub(crate) fn limit() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

/// Returns how many files the service opens at most, with so many connections of clients and to the
/// database.
pub(crate) fn needed(client_connections: u64, database_connections: u64) -> u64 {
    client_connections + FILES_OF_A_DATABASE_CONNECTION * database_connections + OTHER_FILES
}
