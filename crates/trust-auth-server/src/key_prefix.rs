//! [`KeyPrefixArgs`]: the prefix of keys, for each command that makes or checks keys.

use clap::Args;
use serde::{Serialize, Serializer};
use trust_auth::KeyPrefix;

/// The option for the prefix of keys.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct KeyPrefixArgs {
    /// The text with which new keys begin: lower-case letters, digits and `_`, at most 20
    /// characters, the last one `_`. Of the keys that begin so, those of a new key's length are
    /// refused if their checksum is wrong. Other keys need no prefix
    #[arg(
        long,
        value_name = "PREFIX",
        env = "TRUST_AUTH_KEY_PREFIX",
        hide_env_values = true,
        default_value_t
    )]
    #[serde(serialize_with = "text")]
    pub(crate) key_prefix: KeyPrefix,
}

fn text<S: Serializer>(prefix: &KeyPrefix, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(prefix.as_str())
}
