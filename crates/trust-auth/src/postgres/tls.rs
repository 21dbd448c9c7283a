//! TLS to the server, with libpq's rules for certificates.
//!
//! The driver has a TLS of its own, which is left out: it adds the system's certificate authorities
//! to those that `sslrootcert` names, so that any public certificate would pass for a private one.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::location::Host;
use super::tls_settings::{Roots, SslMode, TlsSettings};

/// The message `SSLRequest`: its length, and a version that no protocol has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Why there is no TLS connection.
pub(super) enum TlsFailure {
    /// The server has none, and the connection is as it was.
    NotOffered,
    /// A file or a setting of this side is wrong. Another attempt cannot help.
    Setup(String),
    /// The connection failed.
    Io(io::Error),
    /// The other side's certificate or protocol is wrong.
    Handshake(String),
}

/// Asks for TLS on a new connection to the server, and checks the server's certificate as far as
/// the settings want it.
pub(super) async fn start(
    mut stream: TcpStream,
    host: &Host,
    settings: &TlsSettings,
) -> Result<TlsStream<TcpStream>, TlsFailure> {
    let name = server_name(host, settings.mode)?;
    let settings = settings.clone();
    // Files may be on a network that is gone, and must not hold a worker up.
    let config = tokio::task::spawn_blocking(move || configuration(&settings))
        .await
        .map_err(|_| TlsFailure::Setup("the certificates could not be read; try again".into()))?
        .map_err(TlsFailure::Setup)?;
    stream.write_all(&SSL_REQUEST).await.map_err(TlsFailure::Io)?;
    // One byte and no more: what a man in the middle sends behind it must not pass for the
    // server's.
    match stream.read_u8().await.map_err(TlsFailure::Io)? {
        b'S' => {}
        b'N' => return Err(TlsFailure::NotOffered),
        _ => {
            return Err(TlsFailure::Handshake(
                "it does not speak PostgreSQL's protocol; check the address".into(),
            ));
        }
    }
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(reason)) => TlsFailure::Handshake(told(reason)),
            Some(error) => {
                TlsFailure::Handshake(format!("{error}; check the TLS settings of both sides"))
            }
            None => TlsFailure::Io(error),
        }
    })
}

/// Says what is wrong with the server's certificate.
fn told(error: &CertificateError) -> String {
    let what = match error {
        CertificateError::UnknownIssuer => {
            "its certificate comes from no certificate authority in `sslrootcert`; check that file"
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
                "{error}; let a certificate authority issue its certificate, and give that in `sslrootcert`"
            );
        }
    };
    what.to_owned()
}

fn server_name(host: &Host, mode: SslMode) -> Result<ServerName<'static>, TlsFailure> {
    // The folder of a socket, as `PGHOST` may have it, names no server. Where the name is not
    // verified, none is needed.
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

/// Reads the files and makes rustls's configuration. Each connection does so again: certificates
/// are renewed while the process runs.
fn configuration(settings: &TlsSettings) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match roots(settings)? {
        None => Arc::new(Unverified(Arc::clone(&provider))),
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
                _ => Arc::new(AnyName(verifier)),
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

/// Returns what the server's certificate must come from; nothing if it is not checked. As for
/// libpq, a file of authorities has it checked in every mode that uses TLS.
fn roots(settings: &TlsSettings) -> Result<Option<RootCertStore>, String> {
    let must_verify = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let file = match &settings.roots {
        Roots::System => return system_roots().map(Some),
        Roots::File(file) => file,
        Roots::DefaultFile(file) if exists(file) => {
            // libpq would read the list beside it.
            if exists(&file.with_file_name("root.crl")) {
                return Err(
                    "there is a certificate revocation list in ~/.postgresql/root.crl, and the store reads \
                            none; remove it, or set `sslrootcert`"
                        .into(),
                );
            }
            file
        }
        Roots::DefaultFile(_) | Roots::Nowhere if must_verify => {
            return Err("`sslmode` asks to verify the server, and there is no ~/.postgresql/root.crt; give \
                        `sslrootcert` a file, or `system` for the system's authorities"
                .into());
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
            "the private key {shown} can be read by others; give it the mode 0600, or 0640 if root owns it"
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

/// As libpq asks: a file that cannot be looked at for another reason is not passed over.
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

/// Takes any certificate, as `sslmode=require` without a file of authorities asks. The connection
/// is safe from listeners, and not from a man in the middle.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

/// Takes a certificate of a known authority for any name, as `sslmode=verify-ca` asks.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is checked after everything else.
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
