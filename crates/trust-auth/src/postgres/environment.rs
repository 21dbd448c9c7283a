//! [`Environment`]: the variables, the home folder and the user that libpq takes from the process.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use super::connection_string::unsupported;
use crate::error::StoreError;

/// What libpq takes from the process.
pub(super) struct Environment {
    /// The variables whose names begin with `PG`.
    pub(super) variables: BTreeMap<String, String>,
    pub(super) home: Option<PathBuf>,
    /// The name of the operating system's user, if that user has a name.
    pub(super) user: Option<String>,
}

impl Environment {
    /// Reads the environment of this process.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`] if a variable is not UTF-8.
    pub(super) fn of_this_process() -> Result<Self, StoreError> {
        let mut variables = BTreeMap::new();
        for (name, value) in env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("PG")) else { continue };
            let Some(value) = value.to_str() else {
                return Err(unsupported(&format!("the variable `{name}` is no UTF-8; unset it")));
            };
            variables.insert(name.to_owned(), value.to_owned());
        }
        // Not `USER`: libpq asks the system for the name of the effective user, too.
        Ok(Self { variables, home: env::home_dir(), user: whoami::username().ok() })
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    pub(super) fn in_home(&self, file: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(file))
    }
}
