//! Who may ask at the operators' door: whoever shows the token, or without a token this machine alone.
//!
//! A page in a browser on this machine reaches loopback too. Browsers do not let it read the answers of another
//! origin, unless its own name leads there (DNS rebinding); then that name stands in `Host`. So without a token
//! only an address or `localhost` is answered, which no page from elsewhere is named.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use constant_time_eq::constant_time_eq_32;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ErrorBody;

/// How many characters a token may have. Fewer could be guessed; more do not fit into a head well.
const TOKEN_CHARACTERS: RangeInclusive<usize> = 16..=1_024;

/// How much of the token's file is read at most, in bytes: a token and blanks around it.
const FILE_BYTES_MAX: u64 = 8 << 10;

/// The section `admin` of the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What operators must show.
    #[serde(serialize_with = "hidden", deserialize_with = "token_or_empty")]
    pub token: Option<Token>,
    /// The file that holds it, in place of `token`; empty for none.
    pub token_file: PathBuf,
}

impl Settings {
    /// Whether operators must show a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some() || self.has_file()
    }

    /// Whether the token stands in a file.
    pub fn has_file(&self) -> bool {
        !self.token_file.as_os_str().is_empty()
    }
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn hidden<S: Serializer>(token: &Option<Token>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if token.is_some() { "(hidden)" } else { "" })
}

fn token_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Token>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let problem = || serde::de::Error::custom(format!("expected {}, or nothing", form_of_token()));
    Token::new(&text).ok_or_else(problem).map(Some)
}

/// How a token is written.
pub fn form_of_token() -> String {
    let (min, max) = (TOKEN_CHARACTERS.start(), TOKEN_CHARACTERS.end());
    format!("{min} to {max} printable ASCII characters without blanks")
}

/// The secret of operators; only its hash is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The token that is written so, unless this can be none.
    pub fn new(text: &str) -> Option<Self> {
        let fits = TOKEN_CHARACTERS.contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(hash(text.as_bytes())))
    }

    /// Reads a file that holds a token and nothing else but blanks around it.
    fn read(path: &Path) -> Result<Self, GuardError> {
        let mut text = String::new();
        let shown = path.to_string_lossy();
        if !path.exists() && !shown.contains('/') && Self::new(&shown).is_some() {
            return Err(GuardError::Pasted);
        }
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|source| GuardError::Unreadable { path: path.to_owned(), source })?;
        Self::new(text.trim()).ok_or_else(|| GuardError::Malformed { path: path.to_owned() })
    }

    /// Whether this is the token; takes as long wherever the two differ.
    fn is(&self, shown: &[u8]) -> bool {
        constant_time_eq_32(&self.0, &hash(shown))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(hidden)")
    }
}

fn hash(text: &[u8]) -> [u8; 32] {
    *blake3::hash(text).as_bytes()
}

/// The operators' door cannot be guarded as it is set.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The file of the token cannot be read.
    #[error("admin.token_file = \"{}\": the token cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What should be the path of a file is probably the token.
    #[error(
        "admin.token_file = (hidden): there is no such file, and it may be the token itself, so it is not shown"
    )]
    Pasted,
    /// What it holds is no token.
    #[error("admin.token_file = \"{}\": what it holds is no token, which has {}", path.display(), form_of_token())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Others reach the address, and there is no token.
    #[error("admin_listen = \"{listen}\": {NEEDS_TOKEN}")]
    Unguarded {
        /// The address.
        listen: SocketAddr,
    },
}

/// Why an address that others reach is refused.
pub const NEEDS_TOKEN: &str = "not an address of this machine alone, so a token must be set (admin.token, or \
                               admin.token_file)";

/// Whether nobody but this machine reaches the address.
pub fn is_local(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_loopback()
}

/// Lets operators in. Clones guard the same door.
#[derive(Clone, Debug)]
pub struct Guard(Option<Token>);

impl Guard {
    /// The guard of a door at this address; reads the file of the token, if there is one.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn new(settings: &Settings, listen: SocketAddr) -> Result<Self, GuardError> {
        let token = if settings.has_file() {
            Some(Token::read(&settings.token_file)?)
        } else {
            settings.token.clone()
        };
        if token.is_none() && !is_local(listen) {
            return Err(GuardError::Unguarded { listen });
        }
        Ok(Self(token))
    }

    fn admits(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Stranger> {
        match &self.0 {
            Some(token) => {
                let admitted = shown_token(headers).is_some_and(|shown| token.is(shown));
                admitted.then_some(()).ok_or(Stranger::NoToken)
            }
            None => is_named_locally(uri, headers).then_some(()).ok_or(Stranger::Named),
        }
    }
}

/// What stands behind `Authorization: Bearer`; nothing if there are two of them.
fn shown_token(headers: &HeaderMap) -> Option<&[u8]> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else {
        return None;
    };
    let (scheme, token) = shown.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whether the request was made for an address or for `localhost`, in every place that tells. What names
/// nothing comes from no browser.
fn is_named_locally(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    hosts.all(|host| host.to_str().is_ok_and(is_local_name))
        && uri.authority().is_none_or(|authority| is_local_name(authority.as_str()))
}

fn is_local_name(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let has_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok();
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (is_name && has_port)
        || bracketed.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        || host.parse::<SocketAddr>().is_ok()
}

/// Who is not let in.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Stranger {
    #[error("show the token of this server: Authorization: Bearer <token>")]
    NoToken,
    #[error(
        "this side answers to addresses and to localhost; to use another name, set admin.token or \
         admin.token_file"
    )]
    Named,
}

impl IntoResponse for Stranger {
    fn into_response(self) -> Response {
        let body = Json(ErrorBody::saying(self.to_string()));
        match self {
            Self::NoToken => {
                let challenge = HeaderValue::from_static("Bearer realm=\"admin\"");
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)], body).into_response()
            }
            Self::Named => (StatusCode::MISDIRECTED_REQUEST, body).into_response(),
        }
    }
}

/// Lets a request pass, or answers it here: 401 without the token, 421 for a name that is not ours.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.admits(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(stranger) => stranger.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_form() {
        for text in
            ["", "fifteen-letters", "sixteen letters!", "sixteen-lettérs", "tab\tin-the-middle"]
        {
            assert_eq!(Token::new(text), None, "{text}");
        }
        assert_eq!(Token::new(&"x".repeat(1_025)), None);
        for text in ["sixteen-letters!", &"~".repeat(1_024)] {
            let token = Token::new(text).unwrap();
            assert!(token.is(text.as_bytes()) && !token.is(&text.as_bytes()[1..]));
            assert_eq!(format!("{token:?}"), "Token(hidden)");
        }
    }

    #[test]
    fn a_token_in_the_place_of_its_file_is_not_shown() {
        let read = |text: &str| Token::read(Path::new(text)).unwrap_err().to_string();
        let token = "0123456789abcdef".repeat(4);
        assert!(!read(&token).contains(&token), "{}", read(&token));
        assert!(read("/nowhere/admin-token-of-ours").contains("/nowhere/"), "a path is");
    }

    #[test]
    fn only_addresses_and_localhost_are_local_names() {
        for host in [
            "localhost",
            "LocalHost:9464",
            "127.0.0.1",
            "127.0.0.1:9464",
            "10.1.2.3",
            "[::1]",
            "[::1]:1",
        ] {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:9464.evil.example",
            "localhost:evil",
            "[evil]",
            "[::1].evil.example",
            "me@127.0.0.1",
            "127.1",
            "2130706433",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn an_address_that_others_reach_needs_a_token() {
        let token = Token::new("sixteen-letters!");
        for (listen, is_local) in [
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            let listen = listen.parse().unwrap();
            assert_eq!(Guard::new(&Settings::default(), listen).is_ok(), is_local, "{listen}");
            let settings = Settings { token: token.clone(), ..Settings::default() };
            assert!(Guard::new(&settings, listen).is_ok());
        }
    }
}
