//! [`Settings`]: the flags and environment variables of the service, and the limits that follow
//! from them.
//!
//! It holds no secret that it could print. It has the digest of the admin key alone, and shows not
//! even the digest.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderName;
use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Serialize, Serializer};
use trust_auth::{AuthenticatorBuilder, KeyHeader, KeyPrefix, TrustStore};
use trust_key_cache::{KeyHash, TrustKeyCache};

use super::logs::{LogFormat, LogLevel};
use crate::command_error::CommandError;
use crate::database::{IfMissing, PoolLimits};
use crate::find_by::FindByArg;
use crate::key_digest::KeyDigest;
use crate::key_prefix::KeyPrefixArgs;
use crate::pepper::PepperArgs;
use crate::table_args::TableArgs;

/// The settings of the service. Each flag has an environment variable, `TRUST_AUTH_` and its name.
/// The flag takes precedence. `--help` shows no value of a variable: secrets are kept there.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Settings {
    /// The address of `/verify` and the probes. Port 0 takes a free port; the first line of output
    /// has its number
    // The first line of output has the address itself.
    #[serde(skip)]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TRUST_AUTH_LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) listen: SocketAddr,

    /// The address of the admin API, or `off`
    #[serde(skip)]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TRUST_AUTH_ADMIN_LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:8081"
    )]
    pub(crate) admin_listen: AdminListen,

    /// The SHA-256, in hexadecimal, of the key for the admin API. Without this digest, the admin
    /// API refuses every request
    ///
    /// For example: printf %s "$ADMIN_KEY" | sha256sum. Use a key of 32 random bytes: a reader of
    /// the digest can guess a weak key.
    #[arg(long, value_name = "HEX", env = "TRUST_AUTH_ADMIN_KEY_SHA256", hide_env_values = true)]
    #[serde(rename = "admin_key_configured", serialize_with = "is_some")]
    pub(crate) admin_key_sha256: Option<KeyDigest>,

    /// Serve /metrics on the admin listener alone, and not on the main listener
    #[arg(
        long,
        env = "TRUST_AUTH_METRICS_ON_ADMIN_ONLY",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) metrics_on_admin_only: bool,

    /// Before serving, add what an existing table lacks, as `trust-auth migrate` does. Without this
    /// flag, the service changes no existing table
    #[arg(
        long,
        env = "TRUST_AUTH_MIGRATE",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) migrate: bool,

    /// The header that carries the API key
    #[arg(
        long,
        value_name = "NAME",
        env = "TRUST_AUTH_HEADER",
        hide_env_values = true,
        default_value = "X-Api-Key",
        value_parser = header_name
    )]
    #[serde(serialize_with = "shown")]
    pub(crate) header: HeaderName,

    /// The word before the key in that header, in either case, such as `ApiKey` or `Bearer` with
    /// --header Authorization
    #[arg(long, value_name = "WORD", env = "TRUST_AUTH_SCHEME", hide_env_values = true)]
    pub(crate) scheme: Option<String>,

    /// Send the attributes of the trust, as JSON of ASCII, in the header `X-Trust-Attributes` of a
    /// grant. Without this flag the header is empty. First let the proxy replace this header of its
    /// clients, as the files in proxies/ do
    #[arg(
        long,
        env = "TRUST_AUTH_SEND_ATTRIBUTES",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) send_attributes: bool,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) prefix: KeyPrefixArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) pepper: PepperArgs,

    /// How long a verified key stays in the cache, from the moment before its row was read
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_TTL",
        hide_env_values = true,
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) ttl: Duration,

    /// How many keys the cache holds. Choose more than there are trusts
    #[arg(
        long,
        value_name = "COUNT",
        env = "TRUST_AUTH_CAPACITY",
        hide_env_values = true,
        default_value_t = TrustKeyCache::DEFAULT_CAPACITY
    )]
    pub(crate) capacity: usize,

    /// How many requests may wait for a scan of all rows, or for the index of --find-by. Further
    /// requests are answered with 503 at once. Choose less than half of --max-connections
    #[arg(
        long,
        value_name = "COUNT",
        env = "TRUST_AUTH_WAITING_LIMIT",
        hide_env_values = true,
        default_value_t = 256
    )]
    pub(crate) waiting_limit: usize,

    /// How the row of a key is found that is not cached. `index` reads one row in place of all, and
    /// gives up constant time: the duration of a lookup reveals how much of a stored digest matches
    /// that of the presented key. Use it with --pepper-file, so that no client can compute digests.
    /// It needs what `trust-auth migrate --find-by-index` adds
    #[arg(
        long,
        value_name = "WAY",
        env = "TRUST_AUTH_FIND_BY",
        hide_env_values = true,
        value_enum,
        default_value_t
    )]
    pub(crate) find_by: FindByArg,

    /// Round the duration of a refusal up to a multiple of this, so that the duration does not show
    /// how many trusts there are. 0s turns the rounding off
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_REJECT_FLOOR",
        hide_env_values = true,
        default_value = "0s",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) reject_floor: Duration,

    /// Grant without a read, from trusts that are held under a read lease of this length. At least
    /// 1s on PostgreSQL and 300ms on SQLite, at most 5m. Without this flag, each grant reads
    /// the row
    ///
    /// A change of a trust then waits until no server grants the old key: some milliseconds as a
    /// rule on PostgreSQL, and the length of the lease at most; on SQLite always that length. The
    /// service needs what `trust-auth migrate --read-lease` adds.
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_READ_LEASE",
        hide_env_values = true,
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration_or_off")]
    pub(crate) read_lease: Option<Duration>,

    /// Let the changes of the admin API wait for the length of the longest read lease, and for no
    /// answer of the processes that hold one
    #[arg(
        long,
        env = "TRUST_AUTH_NO_ACKNOWLEDGEMENTS",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) no_acknowledgements: bool,

    /// The most connections to the database that are open for reads. At least 2, because a scan
    /// occupies one
    #[arg(
        long,
        value_name = "COUNT",
        env = "TRUST_AUTH_DATABASE_CONNECTIONS",
        hide_env_values = true,
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(2..=1_024)
    )]
    pub(crate) database_connections: u32,

    /// Exit with 1 if the database cannot be reached at the start. Without this flag, the service
    /// waits for the database, and is not ready
    #[arg(
        long,
        env = "TRUST_AUTH_EXIT_IF_UNREACHABLE",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) exit_if_unreachable: bool,

    /// The age at which a connection to PostgreSQL is replaced by a new one
    ///
    /// After a failover that leaves the connections to the old primary open, the service reads the
    /// old primary no longer than this.
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_DATABASE_CONNECTION_MAX_AGE",
        hide_env_values = true,
        default_value = "2m",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) database_connection_max_age: Duration,

    /// How long the database may take for one request, all steps together. Then the request is
    /// answered with 503
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_QUERY_TIMEOUT",
        hide_env_values = true,
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) query_timeout: Duration,

    /// How long a request to the admin API may take, its body included. Then the request is
    /// answered with 503. Choose at least --query-timeout and --reject-floor together
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_REQUEST_TIMEOUT",
        hide_env_values = true,
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) request_timeout: Duration,

    /// How long a client may take to send the headers of a request, and how long a connection may
    /// be idle
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_HEADER_TIMEOUT",
        hide_env_values = true,
        default_value = "30s",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) header_timeout: Duration,

    /// How large the first line and the headers of a request may be together, in bytes. A larger
    /// request is answered with 431
    #[arg(
        long,
        value_name = "BYTES",
        env = "TRUST_AUTH_MAX_HEADER_BYTES",
        hide_env_values = true,
        default_value_t = 32 * 1024,
        value_parser = clap::value_parser!(u32).range(8_192..=1_048_576)
    )]
    pub(crate) max_header_bytes: u32,

    /// The most connections of clients that are open. Further ones wait until one closes
    #[arg(
        long,
        value_name = "COUNT",
        env = "TRUST_AUTH_MAX_CONNECTIONS",
        hide_env_values = true,
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(crate) max_connections: u32,

    /// How long the service accepts new connections after a request to terminate, while /readyz
    /// answers 503. The proxy needs the time to choose another server
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_DRAIN_DELAY",
        hide_env_values = true,
        default_value = "1s",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) drain_delay: Duration,

    /// How long the service may take after --drain-delay to answer the requests that it has
    /// received
    #[arg(
        long,
        value_name = "DURATION",
        env = "TRUST_AUTH_DRAIN_TIMEOUT",
        hide_env_values = true,
        default_value = "15s",
        value_parser = humantime::parse_duration
    )]
    #[serde(serialize_with = "duration")]
    pub(crate) drain_timeout: Duration,

    /// The format of the log, which is written to standard error
    #[arg(
        long,
        value_name = "FORMAT",
        env = "TRUST_AUTH_LOG_FORMAT",
        hide_env_values = true,
        value_enum,
        default_value_t
    )]
    pub(crate) log_format: LogFormat,

    /// The least severe level that is logged
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TRUST_AUTH_LOG_LEVEL",
        hide_env_values = true,
        value_enum,
        default_value_t
    )]
    pub(crate) log_level: LogLevel,
}

impl Settings {
    /// Returns the digest of the key for the admin API.
    pub(crate) fn admin_key(&self) -> Option<KeyHash> {
        self.admin_key_sha256.and_then(|digest| digest.hash().ok())
    }

    /// Returns the header that carries the key.
    pub(crate) fn key_header(&self) -> KeyHeader {
        KeyHeader::new(self.header.clone()).scheme(self.scheme.as_deref().unwrap_or_default())
    }

    /// Builds the cache.
    pub(crate) fn cache(&self) -> Result<TrustKeyCache, CommandError> {
        TrustKeyCache::builder()
            .ttl(self.ttl)
            .capacity(self.capacity)
            .build()
            .map_err(|error| CommandError::new("settings", format!("--ttl or --capacity: {error}")))
    }

    /// Returns the prefix of keys.
    pub(crate) fn key_prefix(&self) -> KeyPrefix {
        self.prefix.key_prefix.clone()
    }

    /// Sets the limits of the authenticator, and the prefix of the keys that it checks.
    pub(crate) fn limit<S: TrustStore>(
        &self,
        builder: AuthenticatorBuilder<S>,
    ) -> AuthenticatorBuilder<S> {
        builder
            .waiting_limit(self.waiting_limit)
            .reject_floor(self.reject_floor)
            .deadline(self.query_timeout)
            .key_prefix(self.key_prefix())
            .find_by(self.find_by.into())
    }

    /// Returns what to do if the table is missing, or lacks a part.
    pub(crate) fn if_missing(&self) -> IfMissing {
        if self.migrate { IfMissing::CreateOrMigrate } else { IfMissing::Create }
    }

    /// Returns the limits of the use of the database.
    pub(crate) fn pool(&self) -> PoolLimits {
        PoolLimits {
            connections: self.database_connections,
            max_connection_age: self.database_connection_max_age,
            query_timeout: self.query_timeout,
        }
    }

    /// Returns the limits of the main listener.
    pub(crate) fn main_limits(&self) -> ListenerLimits {
        ListenerLimits {
            connections: self.max_connections as usize,
            header_timeout: self.header_timeout,
            header_bytes: self.max_header_bytes as usize,
        }
    }

    /// Returns the limits of the admin listener.
    pub(crate) fn admin_limits(&self) -> ListenerLimits {
        ListenerLimits { connections: ADMIN_CONNECTIONS, ..self.main_limits() }
    }

    /// Logs all settings in one line.
    pub(crate) fn log(
        &self,
        listen: SocketAddr,
        admin_listen: &str,
        database: &str,
        tables: &TableArgs,
    ) {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %listen,
            admin_listen,
            admin_key_configured = self.admin_key_sha256.is_some(),
            metrics_on_admin_only = self.metrics_on_admin_only,
            database,
            table = tables.table,
            key_table = tables.key_table,
            columns = tables.columns.join(","),
            migrate = self.migrate,
            header = %self.header,
            scheme = self.scheme.as_deref(),
            send_attributes = self.send_attributes,
            key_prefix = %self.prefix.key_prefix,
            pepper = self.pepper.pepper_file.is_some(),
            former_pepper = self.pepper.former_pepper_file.is_some(),
            accept_unpeppered = self.pepper.accept_unpeppered,
            ttl = ?self.ttl,
            capacity = self.capacity,
            waiting_limit = self.waiting_limit,
            find_by = ?self.find_by,
            reject_floor = ?self.reject_floor,
            read_lease = ?self.read_lease,
            no_acknowledgements = self.no_acknowledgements,
            database_connections = self.database_connections,
            exit_if_unreachable = self.exit_if_unreachable,
            database_connection_max_age = ?self.database_connection_max_age,
            query_timeout = ?self.query_timeout,
            request_timeout = ?self.request_timeout,
            header_timeout = ?self.header_timeout,
            max_header_bytes = self.max_header_bytes,
            max_connections = self.max_connections,
            drain_delay = ?self.drain_delay,
            drain_timeout = ?self.drain_timeout,
            "serving"
        );
    }
}

/// The limits of one listener: what a client may use before its request is answered.
#[derive(Clone, Debug)]
pub(crate) struct ListenerLimits {
    /// How many connections are open at once. Others wait in the queue of the kernel.
    pub(crate) connections: usize,
    /// For the first line and the headers of a request. Starts when the connection is open, and
    /// again after each answer.
    pub(crate) header_timeout: Duration,
    /// For the first line and the headers of a request together.
    pub(crate) header_bytes: usize,
}

/// The connections of the admin listener. It has few clients, and stays reachable when all
/// connections of the main listener are open.
pub(super) const ADMIN_CONNECTIONS: usize = 64;

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminListen {
    At(SocketAddr),
    Off,
}

impl AdminListen {
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Off => None,
        }
    }
}

impl FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| "give an address and a port, such as 127.0.0.1:8081, or `off`".to_owned())
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| "the name of a header has letters, digits and `-`".to_owned())
}

fn is_some<S: Serializer, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(value.is_some())
}

fn shown<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn duration_or_off<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => duration(value, serializer),
        None => serializer.serialize_str("off"),
    }
}

fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}
