//! [`TlsSettings`]: whether TLS is used, and which certificates count.

use std::path::PathBuf;

use super::environment::Environment;
use super::values::Values;
use crate::error::StoreError;

/// The values of `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The certificate authorities. One of them must have issued the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    System,
    File(PathBuf),
    /// A file that need not exist: without it, only the `verify` modes fail.
    DefaultFile(PathBuf),
    /// There is no home folder, so there is no default file.
    Nowhere,
}

/// The TLS parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsSettings {
    pub(super) mode: SslMode,
    pub(super) roots: Roots,
    /// The client's certificate. A file that does not exist is left out, as libpq does.
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl TlsSettings {
    /// For a pool of the application, whose options have their own.
    pub(super) const UNUSED: Self =
        Self { mode: SslMode::Disable, roots: Roots::Nowhere, certificate: None, key: None };

    pub(super) fn of(values: &Values, environment: &Environment) -> Result<Self, StoreError> {
        let system = values.text("sslrootcert") == Some("system");
        let mode = match values.given("sslmode") {
            None if system => SslMode::VerifyFull,
            None => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some("allow") => SslMode::Allow,
            Some("prefer") => SslMode::Prefer,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some(_) => {
                return Err(values.wrong(
                    "sslmode",
                    "give disable, allow, prefer, require, verify-ca or verify-full",
                ));
            }
        };
        if system && mode != SslMode::VerifyFull {
            return Err(values.wrong("sslmode", "with `sslrootcert=system` it must be verify-full"));
        }
        let roots = match values.path("sslrootcert") {
            _ if system => Roots::System,
            Some(file) => Roots::File(file),
            None => environment
                .in_home(".postgresql/root.crt")
                .map_or(Roots::Nowhere, Roots::DefaultFile),
        };
        let in_home = |name: &str| environment.in_home(&format!(".postgresql/{name}"));
        let certificate = values.path("sslcert").or_else(|| in_home("postgresql.crt"));
        let key = values.path("sslkey").or_else(|| in_home("postgresql.key"));
        Ok(Self { mode, roots, certificate, key })
    }
}
