//! TLS to the server, with libpq's rules for certificates.
//!
//! The driver's own TLS is left out: it adds the system's certificate authorities to the
//! authorities in `sslrootcert`. A public certificate would then pass where a private one is
//! required.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::location::Host;
use super::tls_settings::{Roots, SslMode, TlsSettings};
use super::tls_verifier::LenientVerifier;

/// The message `SSLRequest`: its length, and a version number that no protocol uses.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Why there is no TLS connection.
pub(super) enum TlsFailure {
    /// The server offers no TLS. The connection can go on without.
    NotOffered,
    /// A file or a setting of the client is wrong. Another attempt would fail, too.
    Setup(String),
    /// The connection failed.
    Io(io::Error),
    /// The server's certificate or protocol is wrong.
    Handshake(String),
}

/// Starts TLS on a new connection to the server, and checks the server's certificate as the
/// settings require.
pub(super) async fn start(
    mut stream: TcpStream,
    host: &Host,
    settings: &TlsSettings,
) -> Result<TlsStream<TcpStream>, TlsFailure> {
    let name = server_name(host, settings.mode)?;
    let settings = settings.clone();
    // On another thread: a file system may hang, and must not block a worker.
    let config = tokio::task::spawn_blocking(move || configuration(&settings))
        .await
        .map_err(|_| TlsFailure::Setup("the certificates could not be read; try again".into()))?
        .map_err(TlsFailure::Setup)?;
    stream.write_all(&SSL_REQUEST).await.map_err(TlsFailure::Io)?;
    // Reads one byte: further bytes may come from a man in the middle, and must not count as the
    // server's.
    match stream.read_u8().await.map_err(TlsFailure::Io)? {
        b'S' => {}
        b'N' => return Err(TlsFailure::NotOffered),
        _ => {
            return Err(TlsFailure::Handshake(
                "it does not use PostgreSQL's protocol; check the address".into(),
            ));
        }
    }
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(reason)) => TlsFailure::Handshake(diagnosis(reason)),
            Some(error) => {
                TlsFailure::Handshake(format!("{error}; check the TLS settings of both sides"))
            }
            None => TlsFailure::Io(error),
        }
    })
}

/// Returns what is wrong with the server's certificate, and what to do.
fn diagnosis(error: &CertificateError) -> String {
    let what = match error {
        CertificateError::UnknownIssuer => {
            "no certificate authority in `sslrootcert` has issued its certificate; check that file"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another host; check the host, or use `sslmode=verify-ca`"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired; renew the certificate"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; check the clocks"
        }
        error => {
            let error = Error::InvalidCertificate(error.clone());
            return format!(
                "{error}; let a certificate authority issue its certificate, and give that \
                 authority in `sslrootcert`"
            );
        }
    };
    what.to_owned()
}

fn server_name(host: &Host, mode: SslMode) -> Result<ServerName<'static>, TlsFailure> {
    // The folder of a socket, which `PGHOST` may contain, is not the name of a server. Only
    // `verify-full` needs a name.
    let unnamed =
        host.name.is_empty() || host.name.starts_with(['/', '@']) && mode != SslMode::VerifyFull;
    match (host.name.parse::<IpAddr>().ok(), host.address) {
        (Some(address), _) => Ok(address.into()),
        (None, Some(address)) if unnamed => Ok(address.into()),
        _ => ServerName::try_from(host.name.clone()).map_err(|_| {
            TlsFailure::Setup("its host is no name and no IP address; check `host`".into())
        }),
    }
}

/// Reads the files and makes rustls's configuration. Each connection reads the files again, because
/// certificates are renewed while the process runs.
fn configuration(settings: &TlsSettings) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match roots(settings)? {
        None => Arc::new(LenientVerifier::any_certificate(Arc::clone(&provider))),
        Some(roots) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots),
                Arc::clone(&provider),
            )
            .build()
            .map_err(|error| {
                format!("the certificate authorities cannot be used: {error}; check `sslrootcert`")
            })?;
            match settings.mode {
                SslMode::VerifyFull => verifier,
                _ => Arc::new(LenientVerifier::any_name(verifier, Arc::clone(&provider))),
            }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match client_certificate(settings)? {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            format!(
                "the client's certificate cannot be used: {error}; check `sslcert` and `sslkey`"
            )
        }),
    }
}

/// Returns the certificate authorities; `None` if the server's certificate is not checked. With a
/// file of authorities, the certificate is checked in every mode that uses TLS, as libpq does.
fn roots(settings: &TlsSettings) -> Result<Option<RootCertStore>, String> {
    let must_verify = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let file = match &settings.roots {
        Roots::System => return system_roots().map(Some),
        Roots::File(file) => file,
        Roots::DefaultFile(file) if exists(file) => {
            // libpq would read the revocation list next to this file.
            if exists(&file.with_file_name("root.crl")) {
                return Err(
                    "there is a certificate revocation list in ~/.postgresql/root.crl, and the \
                     store reads none; remove it, or set `sslrootcert`"
                        .into(),
                );
            }
            file
        }
        Roots::DefaultFile(_) | Roots::Nowhere if must_verify => {
            return Err(
                "`sslmode` asks to verify the server, and there is no ~/.postgresql/root.crt; give \
                 `sslrootcert` a file, or `system` for the system's authorities"
                    .into(),
            );
        }
        Roots::DefaultFile(_) | Roots::Nowhere => return Ok(None),
    };
    let shown = file.display();
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, "sslrootcert")? {
        roots.add(certificate).map_err(|error| {
            format!("a certificate in {shown} cannot be used: {error}; check `sslrootcert`")
        })?;
    }
    Ok(Some(roots))
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(
            "the system has no certificate authorities; install them, or give `sslrootcert` a file"
                .into(),
        );
    }
    Ok(roots)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(settings: &TlsSettings) -> Result<Option<ClientCertificate>, String> {
    let Some(file) = settings.certificate.as_deref().filter(|file| exists(file)) else {
        return Ok(None);
    };
    let chain = certificates(file, "sslcert")?;
    let Some(key) = settings.key.as_deref().filter(|key| exists(key)) else {
        return Err(
            "there is a client certificate, and no private key for it; give `sslkey`".into()
        );
    };
    let shown = key.display();
    if is_open_to_others(key) {
        return Err(format!(
            "the private key {shown} can be read by others; give it the mode 0600, or 0640 if root \
             owns it"
        ));
    }
    match PrivateKeyDer::from_pem_file(key) {
        Ok(key) => Ok(Some((chain, key))),
        Err(_) => Err(format!(
            "the private key {shown} cannot be read, or is no unencrypted PEM; check `sslkey`"
        )),
    }
}

fn certificates(file: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("the file {shown} has no certificate in PEM; check `{parameter}`")),
        Err(_) => Err(format!("the file {shown} cannot be read as PEM; check `{parameter}`")),
    }
}

/// Returns whether a file exists, as libpq decides it: a file that cannot be checked for another
/// reason counts as existing.
fn exists(file: &Path) -> bool {
    !fs::metadata(file)
        .is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

#[cfg(unix)]
fn is_open_to_others(key: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(key).is_ok_and(|file| {
        let forbidden = if file.uid() == 0 { 0o037 } else { 0o077 };
        file.mode() & forbidden != 0
    })
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}
