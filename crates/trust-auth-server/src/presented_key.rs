//! The key that `verify` is given: standard input, or what a person types unseen.
//!
//! Takes one newline off the end and nothing else, reads no more than a key can be, and wipes what
//! it read.

use std::io::{self, IsTerminal, Read, Write};

use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// The longest key that is hashed, in bytes. Far beyond any real one: this bounds memory, not keys.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// What was presented. No `Debug`: a log must not show it.
pub(crate) enum PresentedKey {
    Text(Zeroizing<String>),
    /// Longer than [`MAX_BYTES`].
    TooLong,
    /// No header could carry it, so no trust has it.
    NotUtf8,
}

impl PresentedKey {
    /// Reads standard input to its end, or asks on the terminal.
    pub(crate) fn read() -> Result<Self, Failure> {
        if io::stdin().is_terminal() {
            return Self::ask();
        }
        Self::read_from(io::stdin().lock()).map_err(|error| {
            Failure::new("input", format!("cannot read the key from standard input: {error}"))
        })
    }

    fn ask() -> Result<Self, Failure> {
        // rpassword raises the interrupt itself, while the terminal is still silenced. While
        // somebody listens for it, that does not end the process, and rpassword gets to
        // restore the terminal.
        let _listening = Interrupt::listen();
        match rpassword::prompt_password("API key: ") {
            Ok(key) => Ok(Self::Text(Zeroizing::new(key))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(Failure::interrupted()),
            // Ctrl-D: nothing was typed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let _ = writeln!(io::stderr());
                Ok(Self::Text(Zeroizing::default()))
            }
            Err(error) => Err(Failure::new(
                "input",
                format!("cannot read the key from the terminal: {error}"),
            )),
        }
    }

    fn read_from(input: impl Read) -> io::Result<Self> {
        // Room for a key of the full length, its newline ("\r\n"), and one byte more, which tells
        // that there is more.
        let limit = MAX_BYTES + 3;
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
        input.take(limit as u64).read_to_end(&mut bytes)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.len() > MAX_BYTES {
            return Ok(Self::TooLong);
        }
        match str::from_utf8(&bytes) {
            Ok(text) => Ok(Self::Text(Zeroizing::new(text.to_owned()))),
            Err(_) => Ok(Self::NotUtf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(input: &[u8]) -> Option<String> {
        match PresentedKey::read_from(input).unwrap() {
            PresentedKey::Text(text) => Some(text.to_string()),
            PresentedKey::TooLong | PresentedKey::NotUtf8 => None,
        }
    }

    #[test]
    fn one_newline_is_removed_and_nothing_else() {
        for (input, key) in [
            ("k", "k"),
            ("k\n", "k"),
            ("k\r\n", "k"),
            ("k\n\n", "k\n"),
            ("k\r", "k\r"),
            ("k\r\r\n", "k\r"),
            (" k ", " k "),
            ("\tk\n", "\tk"),
            ("\n", ""),
            ("\r\n", ""),
            ("", ""),
            ("a\nb\n", "a\nb"),
            ("\u{feff}k\0", "\u{feff}k\0"),
        ] {
            assert_eq!(text(input.as_bytes()).as_deref(), Some(key), "{input:?}");
        }
    }

    #[test]
    fn the_longest_key_is_read_with_any_newline_and_one_byte_more_is_too_long() {
        let longest = "k".repeat(MAX_BYTES);
        for newline in ["", "\n", "\r\n"] {
            assert_eq!(
                text(format!("{longest}{newline}").as_bytes()).map(|key| key.len()),
                Some(MAX_BYTES)
            );
            let longer = format!("{longest}k{newline}");
            assert!(matches!(
                PresentedKey::read_from(longer.as_bytes()).unwrap(),
                PresentedKey::TooLong
            ));
        }
    }

    #[test]
    fn an_endless_input_ends() {
        assert!(matches!(
            PresentedKey::read_from(io::repeat(b'\n')).unwrap(),
            PresentedKey::TooLong
        ));
    }

    #[test]
    fn bytes_that_are_no_text_are_told_apart() {
        assert!(matches!(
            PresentedKey::read_from(&b"\xff\xfe\n"[..]).unwrap(),
            PresentedKey::NotUtf8
        ));
    }
}
