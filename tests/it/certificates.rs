//! Certificates made for a test, servers that show them, and clients that trust them.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mediatally::config::Config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Raw, TestServer, within};

/// The name in the certificates.
pub(crate) const HOST: &str = "media.example";

/// The last year in which they hold, unless a test says otherwise.
const YEAR: i32 = 2099;

/// Who makes certificates, and the folder with those that a server shows.
pub(crate) struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, in PEM.
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
}

impl Certificates {
    /// With a certificate and its key in the two files already.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificates = Self { issuer, folder: tempfile::tempdir().unwrap() };
        certificates.put(&certificates.make(YEAR));
        certificates
    }

    /// A certificate that expires when this year begins.
    pub(crate) fn make(&self, year: i32) -> Made {
        let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Made {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
        }
    }

    pub(crate) fn put(&self, made: &Made) {
        std::fs::write(self.certificate(), &made.certificate).unwrap();
        std::fs::write(self.key(), &made.key).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder().join("tls.crt")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder().join("tls.key")
    }

    /// A server whose players speak TLS.
    pub(crate) async fn server(&self, change: impl FnOnce(&mut Config)) -> TestServer {
        TestServer::with(|config| {
            config.tls.certificate = self.certificate();
            config.tls.key = self.key();
            change(config);
        })
        .await
    }

    /// A client that speaks HTTP/1.1 on TLS 1.3.
    pub(crate) fn client(&self) -> Client {
        self.client_of(&TLS13, &[])
    }

    /// A client that speaks TLS 1.2.
    pub(crate) fn old_client(&self) -> Client {
        self.client_of(&TLS12, &[])
    }

    /// A client that offers these protocols.
    pub(crate) fn client_offering(&self, protocols: &[&str]) -> Client {
        self.client_of(&TLS13, protocols)
    }

    fn client_of(&self, version: &'static SupportedProtocolVersion, protocols: &[&str]) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols =
            protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Client(TlsConnector::from(Arc::new(config)))
    }
}

/// A client that trusts the certificates of a test.
#[derive(Clone)]
pub(crate) struct Client(TlsConnector);

impl Client {
    /// Connects, or tells why the handshake failed.
    pub(crate) async fn try_connect(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
        self.over(TcpStream::connect(address).await?).await
    }

    /// Shakes hands on a connection, or tells why that failed.
    pub(crate) async fn over(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
        let host = ServerName::try_from(HOST).unwrap();
        within(self.0.connect(host, stream)).await.map(Raw)
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> Raw<TlsStream<TcpStream>> {
        self.try_connect(address).await.unwrap()
    }
}

/// A client that hands its bytes over by hand, so that a test may cut them anywhere.
pub(crate) struct ByHand {
    pub(crate) stream: TcpStream,
    tls: ClientConnection,
}

impl ByHand {
    /// Connected, and with nothing said yet.
    pub(crate) async fn connect(client: &Client, address: SocketAddr) -> Self {
        let host = ServerName::try_from(HOST).unwrap();
        let tls = ClientConnection::new(Arc::clone(client.0.config()), host).unwrap();
        Self { stream: TcpStream::connect(address).await.unwrap(), tls }
    }

    /// What it has to say, as it goes over the wire.
    pub(crate) fn says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// A text that it has to say, as it goes over the wire.
    pub(crate) fn seals(&mut self, text: &str) -> Vec<u8> {
        self.tls.writer().write_all(text.as_bytes()).unwrap();
        self.says()
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Shakes hands, whatever was said before.
    pub(crate) async fn shake_hands(&mut self) {
        while self.tls.is_handshaking() {
            let bytes = self.says();
            self.send(&bytes).await;
            if self.tls.is_handshaking() {
                assert!(self.listen().await, "closed in the handshake");
            }
        }
        let bytes = self.says();
        self.send(&bytes).await;
    }

    /// Reads once more; not if the server has closed.
    async fn listen(&mut self) -> bool {
        let mut bytes = vec![0; 16 << 10];
        let read = within(self.stream.read(&mut bytes)).await.unwrap_or(0);
        self.tls.read_tls(&mut &bytes[..read]).unwrap();
        self.tls.process_new_packets().unwrap();
        read > 0
    }

    /// Sends a request, and waits for its answer, which has no body.
    pub(crate) async fn post(&mut self, request: &str) -> String {
        let sealed = self.seals(request);
        self.send(&sealed).await;
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            assert!(self.listen().await, "closed without an answer");
            // That there is no more for now is no end.
            let _ = self.tls.reader().read_to_end(&mut text);
        }
        String::from_utf8(text).unwrap()
    }

    /// All that the server says until it closes.
    pub(crate) async fn closed(&mut self) -> String {
        while self.listen().await {}
        let mut text = Vec::new();
        // Without a goodbye of TLS this is an error; what came before is there all the same.
        let _ = self.tls.reader().read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }
}

/// The certificate that a server showed.
pub(crate) fn shown(raw: &Raw<TlsStream<TcpStream>>) -> CertificateDer<'static> {
    raw.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
