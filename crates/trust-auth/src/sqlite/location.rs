//! [`Location`]: the file that a database's name means.
//!
//! This module opens no file. If SQLite has the file open elsewhere in the process, closing the
//! file would drop SQLite's locks (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::sqlite::SqliteConnectOptions;

use crate::error::StoreError;

/// A file, as an absolute path, and whether the URL permits making it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) path: PathBuf,
    /// `mode=rwc` or `mode=rw`.
    pub(super) create: Option<bool>,
}

impl Location {
    /// Reads a path, or a URL of the scheme `sqlite`.
    pub(super) fn parse(database: &Path) -> Result<Self, StoreError> {
        let Some(text) = database.to_str() else {
            return Err(unsupported(
                "its path is not valid UTF-8, which SQLite needs; choose another path",
            ));
        };
        let (path, create) = match scheme(text) {
            None | Some("sqlite") if is_address(text.strip_prefix("sqlite:").unwrap_or(text)) => {
                return Err(unsupported(
                    "it looks like a server's address with a password; give a URL such as \
                     `postgres://user@host/database`, or begin a path with `./`",
                ));
            }
            None => (database.to_owned(), None),
            Some("sqlite") => from_url(&text["sqlite:".len()..])?,
            Some(other) => {
                return Err(unsupported(&format!(
                    "it has the scheme `{other}:`; give a path, or `sqlite:` and a path"
                )));
            }
        };
        let shown = path.to_string_lossy();
        if shown.is_empty() {
            return Err(unsupported("its path is empty; give the path of a file"));
        }
        if shown == ":memory:" {
            return Err(unsupported(
                "an SQLite database in memory would be lost with its connection; give the path of \
                 a file",
            ));
        }
        if shown.contains('\0') {
            return Err(unsupported("its path contains a NUL character; leave it out"));
        }
        // Absolute: the pool opens the file again later, perhaps in another working directory.
        // SQLite would also read a name that begins with `file:` as a URI.
        let path = std::path::absolute(&path).map_err(|error| StoreError::CannotOpen {
            path,
            reason: format!("{error}; give an absolute path"),
        })?;
        Ok(Self { path, create })
    }

    /// Returns whether the file exists. The errors are found without opening the file, because
    /// SQLite's own error is always `unable to open`.
    pub(super) fn exists(&self) -> Result<bool, StoreError> {
        let cannot = |reason: &str| StoreError::CannotOpen {
            path: self.path.clone(),
            reason: reason.into(),
        };
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_file() => Ok(true),
            Ok(found) if found.is_dir() => {
                Err(cannot("it is a folder; give the path of a file in it"))
            }
            Ok(_) => Err(cannot("it is not a regular file; choose another path")),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                Err(cannot("a part of its path is a file, not a folder; choose another path"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => match self.path.parent() {
                Some(folder) if folder.is_dir() => Ok(false),
                _ => Err(cannot(
                    "its folder does not exist; make the folder first, or choose another path",
                )),
            },
            Err(error) => {
                Err(cannot(&format!("{error}; choose another path, or change the permissions")))
            }
        }
    }
}

/// Returns the scheme, if the text is a URL. A scheme has at least two characters: one character
/// would be a drive of Windows.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let known = matches!(scheme, "sqlite" | "file");
    (is_scheme && (known || rest.starts_with("//"))).then_some(scheme)
}

/// Returns whether the text has a password in a form of PostgreSQL's addresses:
/// `user:password@host`, as in a URL whose scheme was mistyped, or `password=`. As a path, the text
/// would become a file with the password in its name.
fn is_address(text: &str) -> bool {
    if text.to_ascii_lowercase().contains("password=") {
        return true;
    }
    // The slashes of a URL of SQLite, or the rest of another URL.
    let (text, stripped) =
        text.strip_prefix("//").map_or((text, false), |rest| (rest, !rest.starts_with('/')));
    let Some((before, _)) = text.split_once('@') else { return false };
    let is_path = text.starts_with('.') || Path::new(text).is_absolute();
    before.contains("://") || before.contains(':') && (stripped || !is_path)
}

/// Reads what follows `sqlite:`. The driver decodes the percent-encoding. Only the parameter `mode`
/// is accepted, because other parameters would replace this store's settings.
fn from_url(rest: &str) -> Result<(PathBuf, Option<bool>), StoreError> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let create = match parameters {
        "" => None,
        "mode=rwc" => Some(true),
        "mode=rw" => Some(false),
        _ => {
            return Err(unsupported(
                "the only parameters understood are `mode=rw` and `mode=rwc`; leave out the others",
            ));
        }
    };
    // The driver would replace this name by one of its own.
    if path == ":memory:" {
        return Ok((path.into(), create));
    }
    // With two slashes added: the driver would otherwise remove the first two slashes of a path.
    let options = SqliteConnectOptions::from_str(&format!("sqlite://{path}")).map_err(|_| {
        unsupported("its path is not a valid URL; encode it with `%`, or give it without `sqlite:`")
    })?;
    Ok((options.get_filename().to_owned(), create))
}

fn unsupported(reason: &str) -> StoreError {
    StoreError::UnsupportedUrl { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(database: &str) -> PathBuf {
        Location::parse(Path::new(database)).unwrap().path
    }

    fn refusal(database: &str) -> String {
        Location::parse(Path::new(database)).unwrap_err().to_string()
    }

    #[test]
    fn a_path_and_its_urls_mean_the_same_file() {
        let here = std::env::current_dir().unwrap();
        for name in
            ["trust.db", "sqlite:trust.db", "sqlite://trust.db", "./trust.db", "sqlite:%74rust.db"]
        {
            assert_eq!(path(name), here.join("trust.db"), "{name}");
        }
        for name in ["/a b/c.db", "sqlite:/a%20b/c.db", "sqlite:///a b/c.db", "sqlite:////a b/c.db"]
        {
            assert_eq!(path(name), Path::new("/a b/c.db"), "{name}");
        }
    }

    #[test]
    fn a_plain_path_is_taken_to_the_letter() {
        for name in ["/a%20b?mode=rwc#x.db", "/x/C:\\y.db", "/a:b", "/a://b"] {
            assert_eq!(path(name), Path::new(name));
        }
        let here = std::env::current_dir().unwrap();
        for name in ["trusts:new.db", "C://trusts.db", "1a://trusts.db", "a b://trusts.db"] {
            assert_eq!(path(name), here.join(name), "{name}");
        }
    }

    #[test]
    fn the_mode_of_a_url_says_whether_to_make_the_file() {
        let create = |database: &str| Location::parse(Path::new(database)).unwrap().create;
        assert_eq!(create("sqlite:a.db"), None);
        assert_eq!(create("sqlite:a.db?mode=rw"), Some(false));
        assert_eq!(create("sqlite:a.db?mode=rwc"), Some(true));
        assert!(refusal("sqlite:a.db?mode=ro").contains("mode=rw"));
        assert!(refusal("sqlite:a.db?cache=shared").contains("leave out"));
    }

    #[test]
    fn a_name_that_is_not_a_file_is_refused_and_a_password_is_not_repeated() {
        let message = refusal("postgres://admin:hunter2@db.example/trusts");
        assert!(message.contains("`postgres:`") && !message.contains("hunter2"), "{message}");
        for name in [
            "host=db.example user=trust Password=hunter2 dbname=trusts",
            "postgres//db.example/trusts?user=a&password=hunter2",
            "//admin:hunter2@db.example/trusts",
            "/postgres://admin:hunter2@db/x",
            "sqlite://admin:hunter2@db.example/trusts",
            "sqlite:postgres://admin:hunter2@db/x",
            "postgres//admin:hunter2@db/x",
            " postgres://admin:hunter2@db/x",
            "admin:hunter2@db.example/trusts",
        ] {
            let message = refusal(name);
            assert!(
                message.contains("server's address") && !message.contains("hunter2"),
                "{message}"
            );
        }
        for name in ["./a:b@c.db", "/a:b@c.db", "sqlite:/a:b@c.db", "sqlite:///a:b@c.db"] {
            assert!(path(name).ends_with("a:b@c.db"), "{name}");
        }
        assert!(refusal("file:trust.db").contains("`file:`"));
        for name in ["", "sqlite:", "sqlite://"] {
            assert!(refusal(name).contains("empty"), "{name}");
        }
        for name in [":memory:", "sqlite::memory:", "sqlite://:memory:", "sqlite:%3Amemory:"] {
            assert!(refusal(name).contains("memory"), "{name}");
        }
        for name in ["a\0b", "sqlite:a%00b"] {
            assert!(refusal(name).contains("NUL"), "{name:?}");
        }
        assert!(refusal("sqlite:%ff.db").contains("valid URL"));
    }

    #[test]
    #[cfg(unix)]
    fn a_path_that_is_not_utf_8_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"\xff.db"));
        assert!(Location::parse(path).unwrap_err().to_string().contains("UTF-8"));
    }
}
