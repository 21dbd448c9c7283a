//! The connection parameters of libpq: the environment variable of each, and whether this store
//! supports the parameter.
//!
//! A parameter that `psql` supports and this store does not is refused by name. The reason never
//! repeats the value.

/// What this store does with a parameter.
pub(super) enum Support {
    /// The store does what libpq does.
    Taken,
    /// The store accepts only these values, which describe what the store does in any case. The
    /// text is the advice for any other value.
    Only(&'static [&'static str], &'static str),
    /// The store accepts only the empty value. The text is the advice for any other value.
    Refused(&'static str),
}

use Support::{Only, Refused, Taken};

pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The variable that gives the value where the connection string gives none.
    pub(super) variable: Option<&'static str>,
    pub(super) support: Support,
}

const fn parameter(name: &'static str, variable: &'static str, support: Support) -> Parameter {
    Parameter { name, variable: Some(variable), support }
}

const fn without_variable(name: &'static str, support: Support) -> Parameter {
    Parameter { name, variable: None, support }
}

const KERBEROS: &str =
    "the store has no Kerberos; use a password or a client certificate, and leave it out";
const LIVENESS: &str = "the store finds dead connections by its own time limits; leave it out";
const REVOCATION_LISTS: &str = "the store reads no certificate revocation lists; leave it out, or \
                                end TLS in a proxy that reads them";
const OAUTH: &str =
    "the store has no OAuth login; give the token as the password, by --database-password-command";
const SCRAM_KEYS: &str = "the store logs in by a password or a client certificate; leave it out";

/// Every parameter of libpq up to PostgreSQL 18.
pub(super) static PARAMETERS: &[Parameter] = &[
    parameter("service", "PGSERVICE", Taken),
    without_variable("servicefile", Refused("name the file in the variable PGSERVICEFILE")),
    parameter("host", "PGHOST", Taken),
    parameter("hostaddr", "PGHOSTADDR", Taken),
    parameter("port", "PGPORT", Taken),
    parameter("dbname", "PGDATABASE", Taken),
    parameter("user", "PGUSER", Taken),
    parameter("password", "PGPASSWORD", Taken),
    parameter("passfile", "PGPASSFILE", Taken),
    parameter("connect_timeout", "PGCONNECT_TIMEOUT", Taken),
    parameter("options", "PGOPTIONS", Taken),
    parameter("application_name", "PGAPPNAME", Taken),
    without_variable("fallback_application_name", Taken),
    parameter(
        "client_encoding",
        "PGCLIENTENCODING",
        Only(
            &["auto", "utf8", "UTF8", "utf-8", "UTF-8", "unicode", "UNICODE"],
            "the store uses UTF8; leave it out",
        ),
    ),
    parameter("sslmode", "PGSSLMODE", Taken),
    parameter("sslrootcert", "PGSSLROOTCERT", Taken),
    parameter("sslcert", "PGSSLCERT", Taken),
    parameter("sslkey", "PGSSLKEY", Taken),
    without_variable(
        "sslpassword",
        Refused("the store reads no encrypted key; decrypt the file of `sslkey`"),
    ),
    parameter(
        "sslcertmode",
        "PGSSLCERTMODE",
        Only(
            &["allow"],
            "leave it out; the store sends the client certificate if the server asks for it",
        ),
    ),
    parameter(
        "sslcompression",
        "PGSSLCOMPRESSION",
        Only(&["0", "1"], "TLS is never compressed; leave it out"),
    ),
    parameter("sslcrl", "PGSSLCRL", Refused(REVOCATION_LISTS)),
    parameter("sslcrldir", "PGSSLCRLDIR", Refused(REVOCATION_LISTS)),
    parameter(
        "sslsni",
        "PGSSLSNI",
        Only(&["1"], "the store always sends the server's name; leave it out"),
    ),
    without_variable("sslkeylogfile", Refused("the store logs no TLS secrets; leave it out")),
    parameter(
        "sslnegotiation",
        "PGSSLNEGOTIATION",
        Only(&["postgres"], "the store asks for TLS in PostgreSQL's protocol; leave it out"),
    ),
    parameter(
        "ssl_min_protocol_version",
        "PGSSLMINPROTOCOLVERSION",
        Only(
            &["TLSv1", "TLSv1.1", "TLSv1.2"],
            "the store takes TLS 1.2 and 1.3; set the minimum on the server",
        ),
    ),
    parameter(
        "ssl_max_protocol_version",
        "PGSSLMAXPROTOCOLVERSION",
        Only(&["TLSv1.3"], "the store takes TLS 1.2 and 1.3; set the maximum on the server"),
    ),
    parameter(
        "channel_binding",
        "PGCHANNELBINDING",
        Only(
            &["prefer", "disable"],
            "the store does not bind the login to the TLS channel; use `sslmode=verify-full` and \
             leave it out",
        ),
    ),
    parameter(
        "require_auth",
        "PGREQUIREAUTH",
        Refused(
            "the store does not choose the login's method; use `sslmode=verify-full`, and set the \
             method in pg_hba.conf",
        ),
    ),
    parameter(
        "requirepeer",
        "PGREQUIREPEER",
        Refused("protect the folder of the socket by its mode, and leave it out"),
    ),
    parameter("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"], KERBEROS)),
    parameter("krbsrvname", "PGKRBSRVNAME", Refused(KERBEROS)),
    parameter("gsslib", "PGGSSLIB", Refused(KERBEROS)),
    parameter("gssdelegation", "PGGSSDELEGATION", Only(&["0"], KERBEROS)),
    without_variable("keepalives", Refused(LIVENESS)),
    without_variable("keepalives_idle", Refused(LIVENESS)),
    without_variable("keepalives_interval", Refused(LIVENESS)),
    without_variable("keepalives_count", Refused(LIVENESS)),
    without_variable("tcp_user_timeout", Refused(LIVENESS)),
    without_variable(
        "replication",
        Refused("the store needs an ordinary connection; leave it out"),
    ),
    parameter(
        "target_session_attrs",
        "PGTARGETSESSIONATTRS",
        Only(
            &["primary", "read-write"],
            "trusts are read from the primary alone, since a replica shows revocations late; leave \
             it out, or use `read-write`",
        ),
    ),
    parameter(
        "load_balance_hosts",
        "PGLOADBALANCEHOSTS",
        Only(&["disable"], "the store tries the servers in their order; leave it out"),
    ),
    parameter(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        Only(&["3.0"], "the store uses version 3.0; leave it out"),
    ),
    parameter(
        "max_protocol_version",
        "PGMAXPROTOCOLVERSION",
        Only(&["3.0", "3.2", "latest"], "the store uses version 3.0; leave it out"),
    ),
    without_variable("scram_client_key", Refused(SCRAM_KEYS)),
    without_variable("scram_server_key", Refused(SCRAM_KEYS)),
    without_variable("oauth_issuer", Refused(OAUTH)),
    without_variable("oauth_client_id", Refused(OAUTH)),
    without_variable("oauth_client_secret", Refused(OAUTH)),
    without_variable("oauth_scope", Refused(OAUTH)),
];

/// Finds a parameter by its name.
pub(super) fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

/// Returns why a value is not accepted; `None` if the value is accepted.
pub(super) fn refusal(parameter: &Parameter, value: &str) -> Option<&'static str> {
    match parameter.support {
        Taken => None,
        _ if value.is_empty() => None,
        Only(values, advice) => (!values.contains(&value)).then_some(advice),
        Refused(advice) => Some(advice),
    }
}
