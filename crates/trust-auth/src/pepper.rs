//! [`Pepper`]: the secret that a service mixes into the digests of its keys, and keeps outside of
//! the database.
//!
//! No output shows it, and no error repeats a part of it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use trust_key_cache::KeyHash;
use zeroize::Zeroizing;

/// The shortest pepper, in bytes: as long as the digest.
const LEAST_BYTES: usize = 32;

/// The longest pepper, in bytes. A larger file is hardly one.
const MOST_BYTES: usize = 4_096;

/// A secret of 32 to 4,096 bytes, with which the digest of a key is its HMAC-SHA-256 in place of
/// its SHA-256.
///
/// A reader of the database has digests and no pepper. This reader can check no guess of a weak
/// key, and compute no digest of a key. Keep the pepper where the database's backups are not. A
/// pepper that is lost makes every key of its digests useless.
///
/// Memory is wiped when the pepper is dropped, and a file's content once it was read. The stack of
/// the thread that made the pepper is not. There is no `Display` and no `Clone`, and `Debug` shows
/// nothing. [`KeyHasher`](crate::KeyHasher) uses it.
///
/// # Examples
///
/// ```
/// use trust_auth::{Pepper, PepperError};
///
/// let pepper = Pepper::new("+XUqEBkEoCBsRJlI8E4Y9CdVZ3B1dEcrSDBGZ2pSbUE=").unwrap();
/// assert_eq!(format!("{pepper:?}"), "Pepper(redacted)");
/// assert!(matches!(Pepper::new("hunter2"), Err(PepperError::TooShort { .. })));
/// ```
pub struct Pepper {
    /// The state after the pepper, from which each digest starts. It wipes itself.
    mac: Hmac<Sha256>,
}

impl Pepper {
    /// Returns the pepper of these bytes, with nothing trimmed.
    ///
    /// # Errors
    ///
    /// [`PepperError::TooShort`] or [`PepperError::TooLong`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PepperError> {
        let bytes = bytes.as_ref();
        if bytes.len() < LEAST_BYTES {
            return Err(PepperError::TooShort { bytes: bytes.len() });
        }
        // HMAC takes a key of any length, so this is the only other error.
        match Hmac::new_from_slice(bytes) {
            Ok(mac) if bytes.len() <= MOST_BYTES => Ok(Self { mac }),
            _ => Err(PepperError::TooLong),
        }
    }

    /// Reads the pepper from a file: all its bytes, except one newline (`\n` or `\r\n`) at the end.
    /// Such a file holds text as a rule, for example 32 random bytes in base64.
    ///
    /// Logs a warning if every user of the machine can read or write the file. Blocks while it
    /// reads.
    ///
    /// # Errors
    ///
    /// [`PepperError::Unreadable`], or as [`new`](Self::new).
    pub fn read(path: impl AsRef<Path>) -> Result<Self, PepperError> {
        let path = path.as_ref();
        // The longest pepper, its newline, and one byte that shows that the file is longer. With
        // room for all of it: a vector that grows would leave copies behind.
        let limit = MOST_BYTES + 3;
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
        let file = File::open(path).map_err(PepperError::Unreadable)?;
        warn_if_public(path, &file);
        file.take(limit as u64).read_to_end(&mut bytes).map_err(PepperError::Unreadable)?;
        let pepper = bytes
            .strip_suffix(b"\n")
            .map_or(&**bytes, |pepper| pepper.strip_suffix(b"\r").unwrap_or(pepper));
        Self::new(pepper)
    }

    /// Returns the HMAC-SHA-256 of the key's bytes.
    pub(crate) fn hash(&self, api_key: &[u8]) -> KeyHash {
        let digest = self.mac.clone().chain_update(api_key).finalize();
        KeyHash::from_bytes(digest.into_bytes().into())
    }
}

/// Equal peppers give equal digests. The compare takes constant time.
impl PartialEq for Pepper {
    fn eq(&self, other: &Self) -> bool {
        self.hash(b"") == other.hash(b"")
    }
}

impl Eq for Pepper {}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(redacted)")
    }
}

/// Why there is no pepper, or why two do not fit together. It repeats no part of a pepper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PepperError {
    /// The file cannot be read. Its path may be the pepper itself by mistake, and is left out.
    #[error(
        "the pepper file cannot be read; check its path and mode. Without the pepper, no key that \
         was made with it is accepted"
    )]
    Unreadable(#[source] io::Error),
    /// The pepper is short enough to be guessed.
    #[error(
        "the pepper has {bytes} bytes, and needs 32 at least; make one with `openssl rand -base64 \
         32`"
    )]
    TooShort {
        /// How many bytes were given.
        bytes: usize,
    },
    /// The text is hardly a pepper.
    #[error("the pepper has more than 4,096 bytes; give a file with the pepper alone")]
    TooLong,
    /// The former pepper is the current one, or another former one.
    #[error(
        "the former pepper is the current one; give the new pepper as the current one, and the \
         one that it replaces as the former one"
    )]
    Repeated,
    /// There is a former pepper, and no current one.
    #[error(
        "there is a former pepper and no current one, so new keys would have no pepper; give the \
         current pepper, too"
    )]
    NoCurrent,
}

/// Warns if every user of the machine can read or write the file.
#[cfg(unix)]
fn warn_if_public(path: &Path, file: &File) {
    use std::os::unix::fs::PermissionsExt;
    if file.metadata().is_ok_and(|found| found.permissions().mode() & 0o007 != 0) {
        tracing::warn!(
            file = %path.display(),
            "every user of this machine can read or write the pepper file; take that away, as by \
             `chmod o-rwx`"
        );
    }
}

#[cfg(not(unix))]
fn warn_if_public(_: &Path, _: &File) {}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// RFC 4231, test case 6.
    #[test]
    fn the_digest_is_the_hmac_sha_256_of_the_key() {
        let pepper = Pepper::new([0xaa; 131]).unwrap();
        assert_eq!(
            pepper.hash(b"Test Using Larger Than Block-Size Key - Hash Key First").to_hex(),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        assert!(pepper == Pepper::new([0xaa; 131]).unwrap());
        assert!(pepper != Pepper::new([0xaa; 130]).unwrap());
    }

    #[test]
    fn the_state_of_a_pepper_is_wiped_when_it_is_dropped() {
        fn assert_wipes<T: zeroize::ZeroizeOnDrop>() {}
        // An HMAC is two of these. The features `zeroize` of the crates make them wipe themselves.
        assert_wipes::<Sha256>();
    }

    #[test]
    fn a_file_is_read_without_one_newline_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pepper");
        let text = "0123456789abcdef0123456789abcdef";
        let read = |content: &[u8]| {
            fs::write(&file, content).unwrap();
            Pepper::read(&file)
        };
        let of = |bytes: &[u8]| Pepper::new(bytes).unwrap();
        for newline in ["", "\n", "\r\n"] {
            assert_eq!(read(format!("{text}{newline}").as_bytes()).unwrap(), of(text.as_bytes()));
        }
        for kept in ["\n\n", "\r", " \n", "\r\r\n"] {
            let kept = format!("{text}{kept}");
            assert_ne!(read(kept.as_bytes()).unwrap(), of(text.as_bytes()), "{kept:?}");
        }
        assert_eq!(read(&[0xff; 33]).unwrap(), of(&[0xff; 33]));
        assert_eq!(read(&[b'\n'; 33]).unwrap(), of(&[b'\n'; 32]));
    }

    #[test]
    fn a_pepper_has_32_to_4096_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pepper");
        for (bytes, newline, outcome) in [
            (0, "", Err("TooShort")),
            (31, "", Err("TooShort")),
            (31, "\n", Err("TooShort")),
            (32, "\n", Ok(())),
            (MOST_BYTES, "\r\n", Ok(())),
            (MOST_BYTES + 1, "", Err("TooLong")),
            (MOST_BYTES + 1, "\n", Err("TooLong")),
            (1 << 20, "", Err("TooLong")),
        ] {
            fs::write(&file, [vec![b'x'; bytes], newline.into()].concat()).unwrap();
            match (Pepper::read(&file), outcome) {
                (Ok(_), Ok(())) => {}
                (Err(error), Err(kind)) => {
                    assert!(format!("{error:?}").starts_with(kind), "{bytes}: {error:?}");
                    assert!(!error.to_string().contains("xx"), "{error}");
                }
                (other, _) => panic!("{bytes}: {other:?}"),
            }
        }
        fs::remove_file(&file).unwrap();
        let missing = Pepper::read(&file).unwrap_err();
        assert!(!format!("{missing} {missing:?}").contains("/pepper"), "{missing:?}");
        assert!(matches!(Pepper::read(folder.path()), Err(PepperError::Unreadable(_))));
    }
}
