//! Making a connection: tries servers, TLS and passwords in libpq's order.

use std::io;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpStream;

use super::connector::Connector;
use super::failure::{code, connect_failed};
use super::location::{Host, Location};
use super::password::Found;
use super::tls::{self, TlsFailure};
use super::tls_settings::SslMode;
use super::tunnel;
use crate::error::StoreError;

/// Why an attempt gave no usable connection.
pub(super) enum Refused {
    /// The server or the network refused it.
    Connecting(sqlx::Error),
    /// The connection was made, and cannot be used.
    Connected(StoreError),
    /// The connection leads to an old primary. The successor may be at another host.
    OldPrimary(StoreError),
}

/// How a connection is made to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Tls,
}

/// What to do after an attempt that failed.
enum Next {
    /// Tries the other way: the same server may accept that.
    OtherWay(StoreError),
    OtherHost(StoreError),
    Nothing(StoreError),
}

impl Connector {
    /// Opens a connection by `open`, which receives the driver's options for one attempt. Tries
    /// each server in turn, until one of them is the primary.
    ///
    /// # Errors
    ///
    /// The last server's refusal; [`StoreError::ReadOnly`] if there was a replica.
    pub(super) async fn dial<T, F>(
        &self,
        open: impl Fn(PgConnectOptions) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        if let Some(options) = &self.own {
            return self.dial_own(options, open).await;
        }
        let mut refusal = None;
        for host in &self.location.hosts {
            let error = match tokio::time::timeout(self.host_timeout, self.dial_host(host, &open))
                .await
            {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(Next::Nothing(error))) => return Err(error),
                Ok(Err(Next::OtherHost(error) | Next::OtherWay(error))) => error,
                Err(_) => self.cannot_connect(format!(
                    "it accepted no connection within {:?}; check the address, and that it runs",
                    self.host_timeout
                )),
            };
            refusal = match refusal {
                Some(StoreError::ReadOnly { .. }) => refusal,
                _ => Some(error),
            };
        }
        Err(refusal.unwrap_or(StoreError::Unreachable))
    }

    async fn dial_host<T, F>(
        &self,
        host: &Host,
        open: &impl Fn(PgConnectOptions) -> F,
    ) -> Result<T, Next>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let found = self
            .password
            .password(&self.location, host, self.host_timeout.mul_f64(0.9))
            .await
            .map_err(|reason| Next::Nothing(self.cannot_connect(reason)))?;
        let (mut tls_error, mut plain_error) = (None, None);
        for way in ways(host, self.location.tls.mode) {
            let outcome = match way {
                Way::Plain => self.open(plain(&self.location, host, &found), &found, open).await,
                Way::Tls => match self.tunnel(host, &found).await? {
                    Some(options) => self.open(options, &found, open).await,
                    None => continue,
                },
            };
            match outcome {
                Err(Next::OtherWay(error)) if *way == Way::Tls => tls_error = Some(error),
                Err(Next::OtherWay(error)) => plain_error = Some(error),
                outcome => return outcome,
            }
        }
        // Of two refusals, the one of the safer way is reported.
        Err(Next::Nothing(tls_error.or(plain_error).unwrap_or(StoreError::Unreachable)))
    }

    /// Opens a connection with these options.
    async fn open<T, F>(
        &self,
        options: PgConnectOptions,
        found: &Found,
        open: &impl Fn(PgConnectOptions) -> F,
    ) -> Result<T, Next>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let error = match open(options).await {
            Ok(opened) => return Ok(opened),
            Err(
                Refused::Connected(error @ (StoreError::ReadOnly { .. } | StoreError::Unreachable))
                | Refused::OldPrimary(error),
            ) => return Err(Next::OtherHost(error)),
            Err(Refused::Connected(error)) => return Err(Next::Nothing(error)),
            Err(Refused::Connecting(error)) => error,
        };
        let refusal = connect_failed(&error, &self.location, found);
        match code(&error) {
            // The server is starting or stopping.
            Some("57P03") => Err(Next::OtherHost(refusal)),
            Some(code) => {
                if code.starts_with("28") {
                    self.password.refused().await;
                }
                Err(Next::OtherWay(refusal))
            }
            None => Err(Next::OtherHost(refusal)),
        }
    }

    /// Returns the options for a TLS connection to the server; `None` if the server has no TLS and
    /// the settings do not require TLS.
    async fn tunnel(&self, host: &Host, found: &Found) -> Result<Option<PgConnectOptions>, Next> {
        let mode = self.location.tls.mode;
        let io = |error: io::Error| {
            self.cannot_connect(format!("{error}; check the address, and that it runs"))
        };
        let connected = match host.address {
            Some(address) => TcpStream::connect((address, host.port)).await,
            None => TcpStream::connect((host.name.as_str(), host.port)).await,
        };
        let stream = connected.map_err(|error| Next::OtherHost(io(error)))?;
        stream.set_nodelay(true).map_err(|error| Next::OtherHost(io(error)))?;
        let failure = match tls::start(stream, host, &self.location.tls).await {
            Ok(stream) => {
                let tunnel = tunnel::open(stream).map_err(|error| Next::Nothing(io(error)))?;
                let options = common(&self.location, found).socket(tunnel.folder).port(tunnel.port);
                return Ok(Some(options));
            }
            Err(failure) => failure,
        };
        match failure {
            TlsFailure::Setup(reason) => Err(Next::Nothing(self.cannot_connect(reason))),
            _ if mode == SslMode::Prefer => Ok(None),
            TlsFailure::NotOffered if mode == SslMode::Allow => Ok(None),
            TlsFailure::NotOffered => Err(Next::Nothing(
                self.cannot_connect(
                    "it has no TLS, and `sslmode` asks for it; turn TLS on at the server, or check \
                     `sslmode`"
                        .into(),
                ),
            )),
            TlsFailure::Handshake(reason) => Err(Next::Nothing(self.cannot_connect(reason))),
            TlsFailure::Io(error) => Err(Next::OtherHost(io(error))),
        }
    }
}

fn ways(host: &Host, mode: SslMode) -> &'static [Way] {
    match mode {
        // Two processes of one machine have no network between them.
        _ if host.is_socket() => &[Way::Plain],
        SslMode::Disable => &[Way::Plain],
        SslMode::Allow => &[Way::Plain, Way::Tls],
        SslMode::Prefer => &[Way::Tls, Way::Plain],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Way::Tls],
    }
}

/// The driver's options for a connection without TLS.
fn plain(location: &Location, host: &Host, found: &Found) -> PgConnectOptions {
    let options = common(location, found).port(host.port);
    match host.address {
        Some(address) => options.host(&address.to_string()),
        // The name of a socket outside of the file system begins with a NUL character. libpq writes
        // `@` for the NUL.
        None if host.name.starts_with('@') => options.socket(host.name.replacen('@', "\0", 1)),
        None if host.is_socket() => options.socket(&host.name),
        None => options.host(&host.name),
    }
}

/// Returns the driver's options that all attempts share.
fn common(location: &Location, found: &Found) -> PgConnectOptions {
    // The driver accepts a whole text of options only in a URL. The URL has a password because the
    // driver would otherwise read a password file, and log lines that it does not understand.
    let options = match &location.session_options {
        Some(text) => {
            let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC);
            PgConnectOptions::from_str(&format!("postgres://u:p@h?options={encoded}"))
        }
        None => Ok(PgConnectOptions::new_without_pgpass()),
    };
    options
        .unwrap_or_else(|_| PgConnectOptions::new_without_pgpass())
        .username(&location.user)
        .password(found.password.as_ref().map_or("", |password| password.as_str()))
        .database(&location.database)
        .application_name(&location.application_name)
        // The tunnel has TLS.
        .ssl_mode(sqlx::postgres::PgSslMode::Disable)
        // The driver would log each slow statement with its text.
        .disable_statement_logging()
}
