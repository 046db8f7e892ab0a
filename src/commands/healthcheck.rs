//! Asks the admin address of a server on this machine how it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HOST;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;

use crate::config::Config;

/// How long an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Liveness by default: a container must not be restarted because it is not ready.
pub(super) fn main(config: &Config, ready: bool) -> anyhow::Result<ExitCode> {
    let address = reachable(config.admin_listen);
    if address.port() == 0 {
        bail!("admin_listen has port 0, so nobody knows where to ask");
    }
    let tls = config.tls.admin().is_some();
    let path = if ready { "/readyz" } else { "/livez" };
    let url = format!("http{}://{address}{path}", if tls { "s" } else { "" });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { timeout(ANSWER_MAX, ask(address, tls, path)).await? });
    let (status, text) = answer.with_context(|| format!("no answer from {url}"))?;
    if !status.is_success() {
        bail!("{url} answered {status}: {}", text.trim());
    }
    Ok(ExitCode::SUCCESS)
}

/// Who listens on every address is asked on that of this machine alone.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// One request on a connection of its own.
async fn ask(address: SocketAddr, tls: bool, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await?;
    let stream = if tls {
        let connector = TlsConnector::from(Arc::new(any_certificate()?));
        Either::Right(connector.connect(ServerName::from(address.ip()), stream).await?)
    } else {
        Either::Left(stream)
    };
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, address.to_string()).body(Body::empty())?;
    let response = requests.send_request(request).await?;
    let status = response.status();
    let text = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

/// TLS with whoever answers.
fn any_certificate() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Trusts any certificate: it names the host as others know it, while this machine asks itself, by an
/// address, and sends nothing that is worth hiding.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
