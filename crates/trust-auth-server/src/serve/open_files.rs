//! How many files and sockets the process may have open. Where there are too few, clients of the
//! main listener that do nothing keep everybody out: the admin API, and new connections to the
//! database.

use super::limits::ADMIN_CONNECTIONS;

/// For what is open besides clients and the database: output, listeners, timers, a file that is
/// read.
const OTHERS: u64 = 32;

/// An SQLite connection has the file and its `-wal`, and maps `-shm`. Writes and the watcher have
/// connections of their own.
const OF_A_DATABASE_CONNECTION: u64 = 4;

/// Raises the soft limit to the hard one. It is low only for the sake of programs that use
/// `select(2)`, which this one does not.
pub(crate) fn raise_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Where it is refused, the warning tells.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many may be open. `None`: memory is the limit, or the system names none.
pub(crate) fn limit() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

/// The most that the service has open with so many clients and connections to the database.
pub(crate) fn needed(max_connections: u32, database_connections: u32) -> u64 {
    u64::from(max_connections)
        + ADMIN_CONNECTIONS as u64
        + OF_A_DATABASE_CONNECTION * u64::from(database_connections)
        + OTHERS
}
