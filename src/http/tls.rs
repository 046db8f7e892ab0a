//! TLS: certificates and keys from files, checked at the start and followed while they change.
//!
//! A connection gets what is current when it is accepted and keeps it. New files are taken once they are
//! whole, readable and fit each other; until then the old ones go on.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, InconsistentKeys, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, KeyUsage};

use super::connections::{Counts, one_more};
use crate::clock::Clock;

/// How often the files are looked at. A change is taken when two looks in a row have seen the same.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is probably a mistake, and stops nothing.
const OTHERS_CAN_READ: &str = "everybody can read the key of TLS; chmod 640 it";
const HAS_EXPIRED: &str = "the certificate has expired";

/// The section `tls` of the configuration. Empty paths mean plain HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The certificate that players see, with the chain behind it, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The certificate that operators see.
    pub admin_certificate: PathBuf,
    /// Its private key.
    pub admin_key: PathBuf,
    /// How often the files are looked at; for tests, which do not wait.
    #[serde(skip, default = "look_every")]
    pub look_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            admin_certificate: PathBuf::new(),
            admin_key: PathBuf::new(),
            look_every: LOOK_EVERY,
        }
    }
}

fn look_every() -> Duration {
    LOOK_EVERY
}

impl Settings {
    /// The files of the players' listener, if it speaks TLS.
    pub fn public(&self) -> Option<Pair> {
        let certificate = Named { setting: "tls.certificate", path: self.certificate.clone() };
        let key = Named { setting: "tls.key", path: self.key.clone() };
        self.pair(certificate, key)
    }

    /// The files of the operators' listener, if it speaks TLS.
    pub fn admin(&self) -> Option<Pair> {
        let path = self.admin_certificate.clone();
        let certificate = Named { setting: "tls.admin_certificate", path };
        let key = Named { setting: "tls.admin_key", path: self.admin_key.clone() };
        self.pair(certificate, key)
    }

    fn pair(&self, certificate: Named, key: Named) -> Option<Pair> {
        let off = certificate.path.as_os_str().is_empty() && key.path.as_os_str().is_empty();
        (!off).then_some(Pair { certificate, key, look_every: self.look_every })
    }

    /// What is wrong with the paths themselves, by key.
    pub fn contradictions(&self) -> Vec<(&'static str, String)> {
        let public = [("tls.certificate", &self.certificate), ("tls.key", &self.key)];
        let admin = [
            ("tls.admin_certificate", &self.admin_certificate),
            ("tls.admin_key", &self.admin_key),
        ];
        let mut found = Vec::new();
        for [one, other] in [public, admin] {
            for ((key, path), (other, beside)) in [(one, other), (other, one)] {
                let empty = |path: &Path| path.as_os_str().is_empty();
                if empty(path) && !empty(beside) {
                    found.push((key, format!("must name a file, since {other} does")));
                } else if path.to_string_lossy().contains("-----BEGIN") {
                    found.push((key, "must be the path of a file, not what stands in it".into()));
                }
            }
        }
        found
    }
}

/// A file, and the setting that names it.
#[derive(Clone, Debug)]
pub struct Named {
    setting: &'static str,
    path: PathBuf,
}

impl fmt::Display for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = \"{}\"", self.setting, self.path.display())
    }
}

/// A certificate and its key cannot be used. Nothing of what stands in the files is told.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{file}: the file cannot be read")]
    Unreadable {
        /// The file.
        file: Named,
        /// Why not.
        source: io::Error,
    },
    /// There is no certificate in the file.
    #[error("{file}: the file holds no certificates in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate {
        /// The file.
        file: Named,
    },
    /// The first certificate is none that a server can show.
    #[error("{file}: the certificate cannot be used")]
    BadCertificate {
        /// The file.
        file: Named,
        /// Why not.
        source: rustls::Error,
    },
    /// There is no key in the file.
    #[error(
        "{file}: the file holds no private key in PEM (-----BEGIN PRIVATE KEY-----), or one that is \
         encrypted, which this server cannot open"
    )]
    NoKey {
        /// The file.
        file: Named,
    },
    /// The key is of a kind that is not known here.
    #[error("{file}: the key cannot be used; RSA from 2048 bits, ECDSA and Ed25519 can")]
    BadKey {
        /// The file.
        file: Named,
        /// Why not.
        source: rustls::Error,
    },
    /// Key and certificate do not belong together.
    #[error("{key}: this is not the key of the first certificate in {certificate}")]
    Mismatch {
        /// The file with the certificate.
        certificate: Named,
        /// The file with the key.
        key: Named,
    },
}

/// The two files of a listener.
#[derive(Clone, Debug)]
pub struct Pair {
    certificate: Named,
    key: Named,
    look_every: Duration,
}

/// What stands in the two files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What connections need, made from the two files.
struct Made {
    config: Arc<ServerConfig>,
    expiry_s: u64,
}

impl Made {
    fn has_expired(&self, now_ms: u64) -> bool {
        self.expiry_s <= now_ms / 1_000
    }

    fn expires(&self) -> impl fmt::Display {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.expiry_s))
    }
}

impl Pair {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |file: &Named| {
            std::fs::read(&file.path)
                .map_err(|source| TlsError::Unreadable { file: file.clone(), source })
        };
        Ok(Contents { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    /// Tries whether the two files can be used, and gives what a start warns of.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn check(&self, now_ms: u64) -> Result<Vec<String>, TlsError> {
        let made = self.make(&self.read()?)?;
        let mut warnings = Vec::new();
        if self.others_can_read() {
            warnings.push(format!("{OTHERS_CAN_READ}: {}", self.key));
        }
        if made.has_expired(now_ms) {
            let expires = made.expires();
            warnings.push(format!("{HAS_EXPIRED}: {}, {expires}", self.certificate));
        }
        Ok(warnings)
    }

    fn make(&self, contents: &Contents) -> Result<Made, TlsError> {
        // What PEM's errors say may repeat lines of a key.
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&contents.certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let file = || self.certificate.clone();
        let chain = chain.ok_or_else(|| TlsError::NoCertificate { file: file() })?;
        let expiry_s = expiry_s(&chain[0]).ok_or_else(|| TlsError::BadCertificate {
            file: file(),
            source: CertificateError::BadEncoding.into(),
        })?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| TlsError::NoKey { file: self.key.clone() })?;
        let config = config(chain, key).map_err(|source| self.unusable(source))?;
        Ok(Made { config: Arc::new(config), expiry_s })
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        match source {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { certificate, key }
            }
            rustls::Error::InvalidCertificate(_) => {
                TlsError::BadCertificate { file: certificate, source }
            }
            source => TlsError::BadKey { file: key, source },
        }
    }

    /// Groups are how a machine or a cluster hands out a key, so only what everybody may is pointed out.
    fn others_can_read(&self) -> bool {
        let mode = std::fs::metadata(&self.key.path).map(|metadata| metadata.permissions().mode());
        mode.is_ok_and(|mode| mode & 0o007 != 0)
    }
}

/// TLS 1.2 and 1.3 with the choices of rustls, HTTP/2 before HTTP/1.1.
fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Players come back after `connection_age_max`: what they need to go on without a whole handshake is
    // kept by them, not here. The key of these tickets changes every few hours, and with each new
    // certificate.
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// When a certificate expires, in s since the Unix epoch; nothing if it is no sound certificate.
fn expiry_s(certificate: &CertificateDer<'_>) -> Option<u64> {
    // webpki tells it to whoever asks whether the certificate still holds at the end of time, which is
    // the first that it looks at.
    let end_of_time = UnixTime::since_unix_epoch(Duration::MAX);
    let usage = KeyUsage::server_auth();
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    match certificate.verify_for_usage(&[], &[], &[], end_of_time, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

/// The TLS of one listener.
#[derive(Debug)]
pub struct Tls {
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the two files. Whoever is given back besides must run for changes to be seen.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn open(
        pair: Pair,
        clock: Clock,
        counts: Arc<Counts>,
    ) -> Result<(Arc<Self>, Follower), TlsError> {
        let contents = pair.read()?;
        let made = pair.make(&contents)?;
        let tls = Arc::new(Self { current: RwLock::new(Arc::clone(&made.config)) });
        let seen = fingerprint(&Ok(contents));
        let follower =
            Follower { tls: Arc::clone(&tls), pair, clock, counts, before: seen, judged: seen };
        follower.take(&made);
        Ok((tls, follower))
    }

    /// What the next connection gets.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read())
    }
}

/// Sees when the files of a listener change.
#[derive(Debug)]
pub struct Follower {
    tls: Arc<Tls>,
    pair: Pair,
    clock: Clock,
    counts: Arc<Counts>,
    /// What the last look saw.
    before: blake3::Hash,
    /// What was last taken or refused.
    judged: blake3::Hash,
}

impl Follower {
    /// Looks at the files until aborted. Their contents are compared, because neither names nor times tell
    /// of a link that now leads elsewhere.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(self.pair.look_every).await;
            let pair = self.pair.clone();
            // The disk may be slow, and far away.
            match tokio::task::spawn_blocking(move || pair.read()).await {
                Ok(read) => self.look(read),
                Err(error) if error.is_cancelled() => return,
                Err(error) => {
                    one_more(&self.counts.tls_reload_failures);
                    tracing::error!(%error, "the files of the certificate could not be looked at");
                }
            }
        }
    }

    /// A change counts once two looks in a row have seen the same: files that are just being written, or
    /// of which one is replaced already and the other is not, are no fault.
    fn look(&mut self, read: Result<Contents, TlsError>) {
        let seen = fingerprint(&read);
        let settled = std::mem::replace(&mut self.before, seen) == seen;
        if !settled || seen == self.judged {
            return;
        }
        self.judged = seen;
        match read.and_then(|contents| self.pair.make(&contents)) {
            Ok(made) => self.take(&made),
            Err(error) => {
                one_more(&self.counts.tls_reload_failures);
                let why = error.source().map(tracing::field::display);
                tracing::error!(%error, why, "the new certificate is not taken, the old one goes on");
            }
        }
    }

    fn take(&self, made: &Made) {
        if self.pair.others_can_read() {
            tracing::warn!(file = %self.pair.key, "{OTHERS_CAN_READ}");
        }
        let (certificate, expires) = (&self.pair.certificate, made.expires());
        if made.has_expired(self.clock.wall_ms()) {
            tracing::warn!(%certificate, %expires, "{HAS_EXPIRED}");
        } else {
            tracing::info!(%certificate, %expires, "the certificate is read");
        }
        self.counts.tls_certificate_expiry_s.store(made.expiry_s, Ordering::Relaxed);
        *self.tls.current.write() = Arc::clone(&made.config);
    }
}

/// Tells contents apart; the key itself need not be remembered.
fn fingerprint(read: &Result<Contents, TlsError>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    match read {
        Ok(Contents { certificate, key }) => {
            hasher.update(&(certificate.len() as u64).to_le_bytes());
            hasher.update(certificate).update(key);
        }
        Err(error) => {
            hasher.update(format!("{error:?}").as_bytes());
        }
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A new certificate and its key, in PEM.
    fn made() -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["x".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    struct Fixture {
        folder: tempfile::TempDir,
        counts: Arc<Counts>,
    }

    impl Fixture {
        fn new(certificate: &str, key: &str) -> Self {
            let fixture =
                Self { folder: tempfile::tempdir().unwrap(), counts: Arc::<Counts>::default() };
            fixture.put("certificate", certificate);
            fixture.put("key", key);
            fixture
        }

        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn pair(&self) -> Pair {
            let path = |name| self.folder.path().join(name);
            let settings = Settings {
                certificate: path("certificate"),
                key: path("key"),
                ..Settings::default()
            };
            settings.public().unwrap()
        }

        fn open(&self) -> Result<(Arc<Tls>, Follower), TlsError> {
            Tls::open(self.pair(), Clock::manual(0), Arc::clone(&self.counts))
        }

        fn failures(&self) -> u64 {
            self.counts.tls_reload_failures.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_change_is_taken_once_it_is_whole() {
        let ((old, old_key), (new, new_key)) = (made(), made());
        let fixture = Fixture::new(&old, &old_key);
        let (tls, mut follower) = fixture.open().unwrap();
        let mut look = || follower.look(fixture.pair().read());
        let before = tls.current();
        look();
        fixture.put("certificate", &new[..100]);
        look();
        fixture.put("certificate", &new);
        look();
        fixture.put("key", &new_key);
        look();
        assert!(Arc::ptr_eq(&before, &tls.current()), "it may still be written");
        look();
        let after = tls.current();
        assert!(!Arc::ptr_eq(&before, &after));
        look();
        assert!(Arc::ptr_eq(&after, &tls.current()), "and is taken once");
        assert_eq!(fixture.failures(), 0, "nothing of this was a fault");
    }

    #[test]
    fn what_stays_broken_is_told_once_and_the_way_back_is_free() {
        let (certificate, key) = made();
        let fixture = Fixture::new(&certificate, &key);
        let (tls, mut follower) = fixture.open().unwrap();
        let before = tls.current();
        for (broken, failures) in [(Some("nothing"), 1), (None, 2)] {
            match broken {
                Some(text) => fixture.put("key", text),
                None => std::fs::remove_file(fixture.folder.path().join("key")).unwrap(),
            }
            for _ in 0..5 {
                follower.look(fixture.pair().read());
            }
            assert_eq!(fixture.failures(), failures);
            assert!(Arc::ptr_eq(&before, &tls.current()));
        }
        fixture.put("key", &key);
        for _ in 0..2 {
            follower.look(fixture.pair().read());
        }
        assert!(!Arc::ptr_eq(&before, &tls.current()));
        assert_eq!(fixture.failures(), 2);
    }

    #[test]
    fn each_fault_names_its_file_and_tells_nothing_of_a_key() {
        let ((certificate, key), (_, other_key)) = (made(), made());
        let secrets: Vec<_> =
            key.lines().chain(other_key.lines()).filter(|l| l.len() > 40).collect();
        assert!(!secrets.is_empty());
        let broken = key.replace("-----END", "-----EN");
        let unknown = "-----BEGIN PRIVATE KEY-----\nMAUCAQAwAA==\n-----END PRIVATE KEY-----\n";
        let no_certificate =
            "-----BEGIN CERTIFICATE-----\nMAUCAQAwAA==\n-----END CERTIFICATE-----\n";
        for (certificate, key, setting, why) in [
            ("", &*key, "tls.certificate", "holds no certificates in PEM"),
            (&key, &key, "tls.certificate", "holds no certificates in PEM"),
            (no_certificate, &key, "tls.certificate", "the certificate cannot be used"),
            (&certificate, "", "tls.key", "holds no private key in PEM"),
            (&certificate, &certificate, "tls.key", "holds no private key in PEM"),
            (&certificate, &broken, "tls.key", "holds no private key in PEM"),
            (&certificate, unknown, "tls.key", "the key cannot be used"),
            (&certificate, &other_key, "tls.key", "this is not the key of"),
        ] {
            let fixture = Fixture::new(certificate, key);
            let error = fixture.open().unwrap_err();
            let source = error.source().map(ToString::to_string).unwrap_or_default();
            let text = format!("{error} {source}");
            let path = fixture.folder.path().join(setting.trim_start_matches("tls."));
            let file = format!("{setting} = \"{}\"", path.display());
            assert!(text.starts_with(&file) && text.contains(why), "{why}\nin\n{text}");
            assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
        }
        let fixture = Fixture::new(&certificate, &key);
        std::fs::remove_file(fixture.folder.path().join("certificate")).unwrap();
        let text = fixture.open().unwrap_err().to_string();
        assert!(text.ends_with("/certificate\": the file cannot be read"), "{text}");
    }

    #[test]
    fn the_end_of_a_certificate_is_known_whether_it_has_come_or_not() {
        for (year, expected) in
            [(1999, 915_148_800), (2040, 2_208_988_800), (9999, 253_370_764_800)]
        {
            let mut params = rcgen::CertificateParams::new(["x".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let fixture =
                Fixture::new(&params.self_signed(&key).unwrap().pem(), &key.serialize_pem());
            fixture.open().unwrap();
            let expiry_s = fixture.counts.tls_certificate_expiry_s.load(Ordering::Relaxed);
            assert_eq!(expiry_s, expected, "{year}");
        }
    }
}
