//! [`PepperArgs`]: the pepper of keys, for each command that makes or checks keys.
//!
//! It holds paths, and never a pepper.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Serialize, Serializer};
use trust_auth::{KeyHasher, Pepper, PepperError};

use crate::causes::with_causes;
use crate::command_error::CommandError;

/// Why `--key-sha256` is refused.
pub(crate) const NO_SHA256: &str = "the digest is a SHA-256, and with a pepper no request with its \
                                    key would be granted; give the key itself, or let \
                                    --accept-unpeppered accept such keys";

/// The options for the pepper of keys.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct PepperArgs {
    /// A file with the pepper: 32 bytes at least, of which no backup of the database has a copy.
    /// The digest of a key is then its HMAC-SHA-256 with the pepper in place of its SHA-256. For
    /// example: openssl rand -base64 32 > pepper. A lost pepper cannot be replaced: all keys are
    /// lost with it
    #[arg(long, value_name = "PATH", env = "TRUST_AUTH_PEPPER_FILE", hide_env_values = true)]
    #[serde(rename = "pepper", serialize_with = "is_some")]
    pub(crate) pepper_file: Option<PathBuf>,

    /// A file with the pepper that --pepper-file replaces. Keys of both are accepted, and new keys
    /// have the pepper of --pepper-file
    #[arg(
        long,
        value_name = "PATH",
        env = "TRUST_AUTH_FORMER_PEPPER_FILE",
        hide_env_values = true,
        requires = "pepper_file"
    )]
    #[serde(rename = "former_pepper", serialize_with = "is_some")]
    pub(crate) former_pepper_file: Option<PathBuf>,

    /// Also accept the keys that were made before there was a pepper
    #[arg(
        long,
        env = "TRUST_AUTH_ACCEPT_UNPEPPERED",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) accept_unpeppered: bool,
}

impl PepperArgs {
    /// Reads the peppers, and returns the hasher of keys.
    ///
    /// # Errors
    ///
    /// Which file is wrong, and what to do. Wrong usage, if the peppers do not fit together.
    pub(crate) fn hasher(&self) -> Result<KeyHasher, CommandError> {
        let Some(file) = &self.pepper_file else { return Ok(KeyHasher::default()) };
        let read = |flag: &str, file| Pepper::read(file).map_err(|error| failed(flag, &error));
        let mut hasher = KeyHasher::peppered(read("--pepper-file", file)?);
        if let Some(former) = &self.former_pepper_file {
            let flag = "--former-pepper-file";
            hasher = hasher.accepting(read(flag, former)?).map_err(|error| failed(flag, &error))?;
        }
        Ok(if self.accept_unpeppered { hasher.accepting_unpeppered() } else { hasher })
    }
}

/// Names the flag, and not the file: a path may be the pepper itself by mistake.
fn failed(flag: &str, error: &PepperError) -> CommandError {
    let message = format!("{flag}: {}", with_causes(error));
    match error {
        PepperError::Unreadable(_) => CommandError::new("pepper", message),
        _ => CommandError::wrong_usage("pepper", message),
    }
}

fn is_some<S: Serializer, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(value.is_some())
}
