//! [`FindByArg`]: how the service finds the row of a key that is not cached.

use clap::ValueEnum;
use serde::Serialize;
use trust_auth::FindBy;

/// The values of `--find-by`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FindByArg {
    /// Compare the key with every row, in constant time
    #[default]
    Scan,
    /// Look the digest of the key up in an index
    Index,
}

impl From<FindByArg> for FindBy {
    fn from(by: FindByArg) -> Self {
        match by {
            FindByArg::Scan => Self::Scan,
            FindByArg::Index => Self::Index,
        }
    }
}
