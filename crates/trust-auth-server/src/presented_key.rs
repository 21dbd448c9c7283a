//! [`PresentedKey`]: the key that `verify` and `register` read from standard input, or without an
//! echo from a terminal. `register` also reads it from a file.
//!
//! It removes one newline at the end and nothing else, reads at most the longest key, and wipes
//! what it has read.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use trust_auth::ApiKey;
use zeroize::Zeroizing;

use crate::command_error::CommandError;
use crate::interrupt::Interrupt;

/// The longest key that is hashed, in bytes. It bounds memory, and is far longer than any real key.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// The key. It has no `Debug`, so no log can show it.
pub(crate) enum PresentedKey {
    Text(Zeroizing<String>),
    /// Longer than [`MAX_BYTES`].
    TooLong,
    /// No HTTP header carries such a key, so no trust has it.
    NotUtf8,
}

impl PresentedKey {
    /// Reads standard input to its end, or prompts on the terminal.
    pub(crate) fn read() -> Result<Self, CommandError> {
        if io::stdin().is_terminal() {
            return Self::prompt();
        }
        Self::read_from(io::stdin().lock()).map_err(|error| {
            CommandError::new("input", format!("cannot read the key from standard input: {error}"))
        })
    }

    /// Reads a file to its end.
    pub(crate) fn read_file(path: &Path) -> Result<Self, CommandError> {
        File::open(path).and_then(Self::read_from).map_err(|error| {
            // The path may be the key itself by mistake.
            let path = path.display().to_string();
            let shown = if ApiKey::may_be_in(&path) { "the file" } else { &path };
            CommandError::new("input", format!("cannot read the key from {shown}: {error}"))
        })
    }

    fn prompt() -> Result<Self, CommandError> {
        // rpassword raises the interrupt itself while the terminal does not echo. A registered
        // listener keeps the process alive, so rpassword can restore the terminal.
        let _listening = Interrupt::listen();
        match rpassword::prompt_password("API key: ") {
            Ok(key) => Ok(Self::Text(Zeroizing::new(key))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(CommandError::interrupted())
            }
            // Ctrl-D, without a key.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let _ = writeln!(io::stderr());
                Ok(Self::Text(Zeroizing::default()))
            }
            Err(error) => Err(CommandError::new(
                "input",
                format!("cannot read the key from the terminal: {error}"),
            )),
        }
    }

    fn read_from(input: impl Read) -> io::Result<Self> {
        // The longest key, its newline ("\r\n"), and one byte that shows that the key is longer.
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
    fn bytes_that_are_not_utf_8_are_recognized() {
        assert!(matches!(
            PresentedKey::read_from(&b"\xff\xfe\n"[..]).unwrap(),
            PresentedKey::NotUtf8
        ));
    }
}
