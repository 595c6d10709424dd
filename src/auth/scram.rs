//! SCRAM-SHA-256, both sides (RFC 5802, RFC 7677; PostgreSQL docs, "SASL Authentication").
//!
//! Written over RustCrypto's primitives and not over pgwire's SCRAM, for three reasons: passing a login through
//! needs the ClientKey that a client's proof reveals, which pgwire does not give out; its comparisons are `==`;
//! and its client does not check that the server's nonce begins with our own.
//!
//! # Promises
//! - States are types and a step consumes its state: no step can be skipped, repeated or taken out of order.
//! - What a peer sends is checked whole: attribute order, nonces, base64, iteration counts, channel binding,
//!   the server's signature. The proofs and signatures compare in constant time.
//! - A doomed exchange (a stranger, or a user whose secret fits no SCRAM) costs and says what a wrong password does.
//! - Keys are wiped when dropped and do not print.
//!
//! # Refuses
//! To frame messages, to know users, to accept a message it does not understand.
//!
//! ```text
//! client side   ClientFirst ─ on_server_first ─► NeedsKeys ─ with_keys ─► AwaitingSignature ─ on_server_final ─► ()
//! server side   ServerStart ─ on_client_first ─► AwaitingProof ─ on_client_final ─► (ScramKeys, server-final)
//! ```

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use sha2::Digest;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::auth::NoRandomness;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &[u8] = b"SCRAM-SHA-256";

/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// What PostgreSQL's `scram_iterations` is unless set.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// The most iterations a server may ask of us, or a stored verifier name: each costs two hashes, and a hostile
/// server could otherwise have us compute for minutes (pgjdbc's CVE-2025-49146 was of this family).
pub const MAX_ITERATIONS: u32 = 1_000_000;

type Key = Zeroizing<[u8; 32]>;

/// What ties the exchange to the TLS connection under it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ChannelBinding {
    /// There is no TLS, or nothing to bind to.
    #[default]
    Unavailable,
    /// `tls-server-end-point` (RFC 5929): the hash of the server's certificate.
    TlsServerEndPoint(Box<[u8]>),
}

impl ChannelBinding {
    /// The mechanisms a server with this binding offers, best first.
    pub fn mechanisms(&self) -> &'static [&'static [u8]] {
        match self {
            Self::Unavailable => &[SCRAM_SHA_256],
            Self::TlsServerEndPoint(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
        }
    }
}

/// One side's random contribution; printable, without commas.
#[derive(Clone)]
pub struct Nonce(String);

impl Nonce {
    /// 18 random bytes in base64, as PostgreSQL's own (`SCRAM_RAW_NONCE_LEN`).
    pub fn random() -> Result<Self, NoRandomness> {
        let mut raw = [0; 18];
        getrandom::fill(&mut raw).map_err(|_| NoRandomness)?;
        Ok(Self(STANDARD.encode(raw)))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(…)")
    }
}

/// ClientKey and ServerKey for one password, salt and iteration count: all a client needs to log in, and so
/// as good as the password to a server whose verifier has that salt and count.
#[derive(Clone)]
pub struct ScramKeys {
    client_key: Key,
    server_key: Key,
    salt: Box<[u8]>,
    iterations: u32,
}

impl ScramKeys {
    /// Hashes a password as often as `iterations` says: costly, worth caching.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared(password), salt, iterations, salted.as_mut_slice());
        Self {
            client_key: hmac_sha256(&salted, &[b"Client Key"]),
            server_key: hmac_sha256(&salted, &[b"Server Key"]),
            salt: salt.into(),
            iterations,
        }
    }

    /// Whether a server that names this salt and count can be logged in to with these keys.
    pub fn fit(&self, salt: &[u8], iterations: u32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }

    /// The ClientKey: what the proof reveals.
    pub fn client_key(&self) -> &[u8; 32] {
        &self.client_key
    }

    /// The ServerKey: what the server's signature is checked with.
    pub fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(…)")
    }
}

/// What a server stores: enough to check a proof, not to make one.
#[derive(Clone)]
pub struct ScramVerifier {
    salt: Box<[u8]>,
    /// 1 ≤ `iterations` ≤ [`MAX_ITERATIONS`] where it came from outside.
    iterations: u32,
    stored_key: Key,
    server_key: Key,
}

impl ScramVerifier {
    /// How PostgreSQL begins the stored form.
    pub const PREFIX: &[u8] = b"SCRAM-SHA-256$";

    /// The verifier of a password.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        Self::of_keys(&ScramKeys::derive(password, salt, iterations))
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (`parse_scram_secret`, `auth-scram.c`).
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text.strip_prefix(Self::PREFIX)?).ok()?;
        let (parameters, keys) = text.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = STANDARD.decode(salt).ok()?;
        if salt.is_empty() {
            return None;
        }
        Some(Self::from_parts(&salt, iteration_count(iterations)?, key(stored_key)?, key(server_key)?))
    }

    pub(super) fn from_parts(salt: &[u8], iterations: u32, stored_key: Key, server_key: Key) -> Self {
        Self { salt: salt.into(), iterations, stored_key, server_key }
    }

    /// The salt that is told to clients.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The iteration count that is told to clients.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The verifier of the password that these keys are of.
    pub fn of_keys(keys: &ScramKeys) -> Self {
        Self::from_parts(&keys.salt, keys.iterations, sha256(&keys.client_key), keys.server_key.clone())
    }

    /// Whether these are the keys of its password.
    #[must_use]
    pub fn accepts_keys(&self, keys: &ScramKeys) -> bool {
        sha256(&keys.client_key).as_slice().ct_eq(self.stored_key.as_slice()).into()
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(…)")
    }
}

/// Whether an exchange may end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing the client proves is accepted: there is no such user, or no secret to check against.
    Doomed,
    /// There is a user and a verifier.
    Sincere,
}

/// Server side: mechanisms have been offered, the client's first words are awaited.
#[derive(Debug)]
pub struct ServerStart {
    verifier: ScramVerifier,
    standing: Standing,
    binding: ChannelBinding,
    nonce: Nonce,
}

impl ServerStart {
    /// Begins with what is known of the user, what TLS offers to bind to, and a fresh nonce.
    pub fn new(verifier: ScramVerifier, standing: Standing, binding: ChannelBinding, nonce: Nonce) -> Self {
        Self { verifier, standing, binding, nonce }
    }

    /// Takes the client-first-message; gives the server-first-message to send.
    pub fn on_client_first(
        self,
        mechanism: &[u8],
        message: &[u8],
    ) -> Result<(AwaitingProof, Vec<u8>), ScramError> {
        let message = text(message)?;
        let (gs2, bare) = self.binding_asked(mechanism, message)?;
        let mut attributes = Attributes(bare);
        if bare.starts_with("m=") {
            return Err(ScramError::UnknownExtension);
        }
        // The name is ignored: PostgreSQL uses that of the startup packet, and libpq sends an empty one.
        attributes.take('n')?;
        let client_nonce = nonce(attributes.take('r')?)?;

        let nonce = format!("{client_nonce}{}", self.nonce.0);
        let salt = STANDARD.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let exchanged = format!("{bare},{server_first}");
        let awaiting = AwaitingProof {
            verifier: self.verifier,
            standing: self.standing,
            binding_input: gs2,
            nonce,
            exchanged,
        };
        Ok((awaiting, server_first.into_bytes()))
    }

    /// The channel binding input that the client must repeat under its proof, and the rest of its message.
    fn binding_asked<'m>(
        &self,
        mechanism: &[u8],
        message: &'m str,
    ) -> Result<(Vec<u8>, &'m str), ScramError> {
        let is_plus = match (mechanism, &self.binding) {
            (SCRAM_SHA_256, _) => false,
            (SCRAM_SHA_256_PLUS, ChannelBinding::TlsServerEndPoint(_)) => true,
            _ => return Err(ScramError::UnknownMechanism),
        };
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed)?;
        let (authorization, bare) = rest.split_once(',').ok_or(ScramError::Malformed)?;
        if !authorization.is_empty() {
            let named = authorization.starts_with("a=");
            return Err(if named { ScramError::AuthorizationIdentity } else { ScramError::Malformed });
        }

        let mut input = format!("{flag},,").into_bytes();
        match (flag, &self.binding) {
            ("n", _) if !is_plus => {}
            ("y", ChannelBinding::Unavailable) => {}
            // The client could bind and thinks we cannot; we offered: somebody in between took the offer out.
            ("y", ChannelBinding::TlsServerEndPoint(_)) if !is_plus => {
                return Err(ScramError::BindingDowngraded);
            }
            ("p=tls-server-end-point", ChannelBinding::TlsServerEndPoint(hash)) if is_plus => {
                input.extend_from_slice(hash);
            }
            _ if flag.starts_with("p=") && is_plus => return Err(ScramError::UnknownBinding),
            _ => return Err(ScramError::Malformed),
        }
        Ok((input, bare))
    }
}

/// Server side: the challenge is sent, the proof is awaited.
#[derive(Debug)]
pub struct AwaitingProof {
    verifier: ScramVerifier,
    standing: Standing,
    /// gs2-header and binding data, as the client must repeat them.
    binding_input: Vec<u8>,
    /// The client's and ours, joined.
    nonce: String,
    /// client-first-message-bare and server-first-message, joined by a comma.
    exchanged: String,
}

impl AwaitingProof {
    /// Takes the client-final-message; gives the keys its proof revealed and the server-final-message to send.
    pub fn on_client_final(self, message: &[u8]) -> Result<(ScramKeys, Vec<u8>), ScramError> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let proof = key(proof).ok_or(ScramError::Malformed)?;
        let mut attributes = Attributes(without_proof);
        let binding = STANDARD.decode(attributes.take('c')?).map_err(|_| ScramError::Malformed)?;
        if binding != self.binding_input {
            return Err(ScramError::BindingMismatch);
        }
        if attributes.take('r')? != self.nonce {
            return Err(ScramError::WrongNonce);
        }

        let authenticated = [self.exchanged.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = xor(&proof, &hmac_sha256(&self.verifier.stored_key, &authenticated));
        let is_right: bool = sha256(&client_key).as_slice().ct_eq(self.verifier.stored_key.as_slice()).into();
        if !is_right || self.standing == Standing::Doomed {
            return Err(ScramError::WrongProof);
        }
        let signature = hmac_sha256(&self.verifier.server_key, &authenticated);
        let keys = ScramKeys {
            client_key,
            server_key: self.verifier.server_key,
            salt: self.verifier.salt,
            iterations: self.verifier.iterations,
        };
        Ok((keys, format!("v={}", STANDARD.encode(signature.as_slice())).into_bytes()))
    }
}

/// Client side: the first message is made, the server's challenge is awaited.
#[derive(Debug)]
pub struct ClientFirst {
    mechanism: &'static [u8],
    /// gs2-header, and under it the binding data.
    gs2: &'static str,
    binding_input: Vec<u8>,
    nonce: Nonce,
    bare: String,
}

impl ClientFirst {
    /// Chooses among the mechanisms a server offers, binding to the channel where both can.
    pub fn new<'m>(
        offered: impl IntoIterator<Item = &'m [u8]>,
        binding: &ChannelBinding,
        nonce: Nonce,
    ) -> Result<Self, ScramError> {
        let (mut is_plain, mut is_plus) = (false, false);
        for mechanism in offered {
            is_plain |= mechanism == SCRAM_SHA_256;
            is_plus |= mechanism == SCRAM_SHA_256_PLUS;
        }
        let (mechanism, gs2, hash) = match binding {
            ChannelBinding::TlsServerEndPoint(hash) if is_plus => {
                (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", &**hash)
            }
            ChannelBinding::TlsServerEndPoint(_) if is_plain => (SCRAM_SHA_256, "y,,", &[][..]),
            ChannelBinding::Unavailable if is_plain => (SCRAM_SHA_256, "n,,", &[][..]),
            _ => return Err(ScramError::UnknownMechanism),
        };
        let bare = format!("n=,r={}", nonce.0);
        Ok(Self { mechanism, gs2, binding_input: [gs2.as_bytes(), hash].concat(), nonce, bare })
    }

    /// The mechanism chosen.
    pub fn mechanism(&self) -> &'static [u8] {
        self.mechanism
    }

    /// The client-first-message to send.
    pub fn message(&self) -> Vec<u8> {
        [self.gs2, &self.bare].concat().into_bytes()
    }

    /// Takes the server-first-message.
    pub fn on_server_first(self, message: &[u8]) -> Result<NeedsKeys, ScramError> {
        let message = text(message)?;
        if message.starts_with("m=") {
            return Err(ScramError::UnknownExtension);
        }
        let mut attributes = Attributes(message);
        let nonce = nonce(attributes.take('r')?)?;
        let is_ours = nonce.strip_prefix(&*self.nonce.0).is_some_and(|theirs| !theirs.is_empty());
        if !is_ours {
            return Err(ScramError::WrongNonce);
        }
        let salt = STANDARD.decode(attributes.take('s')?).map_err(|_| ScramError::Malformed)?;
        if salt.is_empty() {
            return Err(ScramError::Malformed);
        }
        let iterations = iteration_count(attributes.take('i')?).ok_or(ScramError::BadIterations)?;

        let binding = STANDARD.encode(&self.binding_input);
        Ok(NeedsKeys {
            salt: salt.into(),
            iterations,
            exchanged: format!("{},{message}", self.bare),
            without_proof: format!("c={binding},r={nonce}"),
        })
    }
}

/// Client side: the challenge is known; the keys for it are to be derived, or found in a cache.
#[derive(Debug)]
pub struct NeedsKeys {
    salt: Box<[u8]>,
    /// 1 ≤ `iterations` ≤ [`MAX_ITERATIONS`]
    iterations: u32,
    exchanged: String,
    without_proof: String,
}

impl NeedsKeys {
    /// The salt of the server's verifier.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The iteration count of the server's verifier.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Derives the keys: costly, to be done where it blocks nobody.
    pub fn derive(&self, password: &[u8]) -> ScramKeys {
        ScramKeys::derive(password, &self.salt, self.iterations)
    }

    /// Takes the keys; gives the client-final-message to send.
    pub fn with_keys(self, keys: &ScramKeys) -> Result<(AwaitingSignature, Vec<u8>), ScramError> {
        if !keys.fit(&self.salt, self.iterations) {
            return Err(ScramError::KeysDoNotFit);
        }
        let authenticated = [self.exchanged.as_bytes(), b",", self.without_proof.as_bytes()];
        let signature = hmac_sha256(&sha256(&keys.client_key), &authenticated);
        let proof = STANDARD.encode(xor(&keys.client_key, &signature).as_slice());
        let expected = hmac_sha256(&keys.server_key, &authenticated);
        Ok((AwaitingSignature { expected }, format!("{},p={proof}", self.without_proof).into_bytes()))
    }
}

/// Client side: the proof is sent; the server has yet to prove that it knows the verifier.
pub struct AwaitingSignature {
    expected: Key,
}

impl AwaitingSignature {
    /// Takes the server-final-message. Whoever skips this has not authenticated the server.
    pub fn on_server_final(self, message: &[u8]) -> Result<(), ScramError> {
        let message = text(message)?;
        if message.starts_with("e=") {
            return Err(ScramError::WrongProof);
        }
        let signature = key(Attributes(message).take('v')?).ok_or(ScramError::Malformed)?;
        let is_right: bool = signature.as_slice().ct_eq(self.expected.as_slice()).into();
        if is_right { Ok(()) } else { Err(ScramError::WrongSignature) }
    }
}

impl fmt::Debug for AwaitingSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitingSignature(…)")
    }
}

/// Why an exchange failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScramError {
    /// The client wants to act as another user (`a=`); PostgreSQL has no such thing.
    AuthorizationIdentity,
    /// The server asks for no iterations, or for more than [`MAX_ITERATIONS`].
    BadIterations,
    /// The client could bind to the channel and was told that we cannot.
    BindingDowngraded,
    /// The channel binding data are not those of this connection.
    BindingMismatch,
    /// The keys were made for another salt or iteration count.
    KeysDoNotFit,
    /// Not the attributes that RFC 5802 asks for, or not in that order.
    Malformed,
    /// A channel binding type other than `tls-server-end-point`.
    UnknownBinding,
    /// A mandatory extension (`m=`); there is none that we know.
    UnknownExtension,
    /// Not a mechanism that was offered, or none offered that we know.
    UnknownMechanism,
    /// The nonce is not the one of this exchange: a replay, or somebody else's conversation.
    WrongNonce,
    /// The password is wrong, or the user does not exist.
    WrongProof,
    /// The server does not know the verifier: it is not the server it says it is.
    WrongSignature,
}

impl ScramError {
    /// The SQLSTATE PostgreSQL uses for a client that does this (`auth-scram.c`).
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::AuthorizationIdentity | Self::UnknownExtension => "0A000",
            Self::BindingDowngraded | Self::BindingMismatch => "28000",
            Self::WrongProof | Self::KeysDoNotFit => "28P01",
            _ => "08P01",
        }
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthorizationIdentity => "SCRAM: authorization identities are not supported",
            Self::BadIterations => "SCRAM: the iteration count is out of bounds",
            Self::BindingDowngraded => {
                "SCRAM: channel binding was offered, and the client was told it was not"
            }
            Self::BindingMismatch => "SCRAM: channel binding check failed",
            Self::KeysDoNotFit => {
                "SCRAM: the client's keys fit another salt or iteration count than the server's"
            }
            Self::Malformed => "malformed SCRAM message",
            Self::UnknownBinding => "SCRAM: unsupported channel binding type",
            Self::UnknownExtension => "SCRAM: a mandatory extension is not supported",
            Self::UnknownMechanism => "SASL: no authentication mechanism in common",
            Self::WrongNonce => "SCRAM: the nonce does not match",
            Self::WrongProof => "SCRAM: the proof is wrong",
            Self::WrongSignature => "SCRAM: the server's signature is wrong",
        })
    }
}

impl std::error::Error for ScramError {}

/// HMAC-SHA-256 of the joined parts. Every key of SCRAM after the first is a hash, hence the fixed length:
/// padded to a block with zeros, as RFC 2104 does itself, it cannot be refused.
pub(super) fn hmac_sha256(key: &[u8; 32], parts: &[&[u8]]) -> Key {
    let mut block = Zeroizing::new([0; 64]);
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn sha256(bytes: &[u8; 32]) -> Key {
    Zeroizing::new(Sha256::digest(bytes).into())
}

fn xor(left: &[u8; 32], right: &[u8; 32]) -> Key {
    let mut both = Zeroizing::new(*left);
    for (to, from) in both.iter_mut().zip(right) {
        *to ^= from;
    }
    both
}

/// The password as it is hashed: SASLprep'd, or as it is where that is not possible (`scram-common.c`,
/// "if the password is not valid UTF-8 or contains prohibited characters, use the raw bytes").
fn prepared(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = match str::from_utf8(password).map(stringprep::saslprep) {
        Ok(Ok(Cow::Owned(prepared))) if !prepared.is_empty() => prepared.into_bytes(),
        _ => password.to_vec(),
    };
    Zeroizing::new(prepared)
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    str::from_utf8(message).map_err(|_| ScramError::Malformed)
}

/// RFC 5802: printable ASCII without the comma, which the attributes have taken out already.
fn nonce(text: &str) -> Result<&str, ScramError> {
    let is_printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_printable { Ok(text) } else { Err(ScramError::Malformed) }
}

fn key(base64: &str) -> Option<Key> {
    let decoded = Zeroizing::new(STANDARD.decode(base64).ok()?);
    decoded.as_slice().try_into().ok().map(Zeroizing::new)
}

fn iteration_count(digits: &str) -> Option<u32> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|count| (1..=MAX_ITERATIONS).contains(count))
}

/// Attributes `x=value`, separated by commas, in the order RFC 5802 prescribes.
struct Attributes<'m>(&'m str);

impl<'m> Attributes<'m> {
    fn take(&mut self, name: char) -> Result<&'m str, ScramError> {
        let (first, rest) = self.0.split_once(',').unwrap_or((self.0, ""));
        self.0 = rest;
        first.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).ok_or(ScramError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn salt() -> Vec<u8> {
        STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap()
    }

    fn server(password: &str, standing: Standing) -> ServerStart {
        let verifier = ScramVerifier::derive(password.as_bytes(), &salt(), 4096);
        ServerStart::new(verifier, standing, ChannelBinding::Unavailable, Nonce(SERVER_NONCE.into()))
    }

    fn client() -> ClientFirst {
        // The RFC's client says its name; ours never does.
        let bare = format!("n=user,r={CLIENT_NONCE}");
        let nonce = Nonce(CLIENT_NONCE.into());
        ClientFirst {
            bare,
            ..ClientFirst::new([SCRAM_SHA_256], &ChannelBinding::Unavailable, nonce).unwrap()
        }
    }

    #[test]
    fn the_server_side_agrees_with_rfc_7677() {
        let first = format!("n,,n=user,r={CLIENT_NONCE}");

        let (awaiting, said) =
            server("pencil", Standing::Sincere).on_client_first(SCRAM_SHA_256, first.as_bytes()).unwrap();
        let (keys, last) = awaiting.on_client_final(CLIENT_FINAL.as_bytes()).unwrap();

        assert_eq!(said, SERVER_FIRST.as_bytes());
        assert_eq!(last, SERVER_FINAL.as_bytes());
        assert_eq!(keys.client_key(), ScramKeys::derive(b"pencil", &salt(), 4096).client_key());
    }

    #[test]
    fn the_client_side_agrees_with_rfc_7677() {
        let needs = client().on_server_first(SERVER_FIRST.as_bytes()).unwrap();
        let keys = needs.derive(b"pencil");
        let (awaiting, said) = needs.with_keys(&keys).unwrap();

        assert_eq!(said, CLIENT_FINAL.as_bytes());
        assert_eq!(awaiting.on_server_final(SERVER_FINAL.as_bytes()), Ok(()));
    }

    #[test]
    fn a_stranger_is_answered_like_a_wrong_password() {
        let first = format!("n,,n=,r={CLIENT_NONCE}");
        for (password, standing) in [("other", Standing::Sincere), ("pencil", Standing::Doomed)] {
            let (awaiting, said) =
                server(password, standing).on_client_first(SCRAM_SHA_256, first.as_bytes()).unwrap();

            assert_eq!(said, SERVER_FIRST.as_bytes());
            assert_eq!(awaiting.on_client_final(CLIENT_FINAL.as_bytes()).err(), Some(ScramError::WrongProof));
        }
    }

    #[test]
    fn a_server_cannot_replay_ask_too_much_or_go_unproven() {
        let tries = [
            ("r=somebody,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ScramError::WrongNonce),
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ScramError::WrongNonce),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000001", ScramError::BadIterations),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0", ScramError::BadIterations),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-1", ScramError::BadIterations),
            (
                "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999999999",
                ScramError::BadIterations,
            ),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", ScramError::Malformed),
            ("r=rOprNGfwEbeRWgbNEkqOx,i=4096", ScramError::Malformed),
            ("m=x,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ScramError::UnknownExtension),
        ];
        for (message, error) in tries {
            assert_eq!(client().on_server_first(message.as_bytes()).err(), Some(error), "{message}");
        }

        let needs = client().on_server_first(SERVER_FIRST.as_bytes()).unwrap();
        let keys = needs.derive(b"pencil");
        let (awaiting, _) = needs.with_keys(&keys).unwrap();
        let forged = format!("v={}", STANDARD.encode([0; 32]));
        assert_eq!(awaiting.on_server_final(forged.as_bytes()), Err(ScramError::WrongSignature));
    }

    #[test]
    fn keys_for_another_salt_are_refused_before_they_are_tried() {
        let needs = client().on_server_first(SERVER_FIRST.as_bytes()).unwrap();
        let keys = ScramKeys::derive(b"pencil", b"other salt", 4096);

        assert_eq!(needs.with_keys(&keys).err(), Some(ScramError::KeysDoNotFit));
    }

    fn bound(mechanism: &[u8], binding: &ChannelBinding, message: &str) -> Option<ScramError> {
        let verifier = ScramVerifier::derive(b"pencil", b"salt", 1);
        let start =
            ServerStart::new(verifier, Standing::Sincere, binding.clone(), Nonce(SERVER_NONCE.into()));
        start.on_client_first(mechanism, message.as_bytes()).err()
    }

    #[test]
    fn channel_binding_is_neither_faked_nor_downgraded() {
        let none = ChannelBinding::Unavailable;
        let tls = ChannelBinding::TlsServerEndPoint([1, 2, 3].into());

        assert_eq!(bound(SCRAM_SHA_256, &none, "n,,n=,r=x"), None);
        assert_eq!(bound(SCRAM_SHA_256, &none, "y,,n=,r=x"), None);
        assert_eq!(bound(SCRAM_SHA_256, &tls, "n,,n=,r=x"), None);
        assert_eq!(bound(SCRAM_SHA_256_PLUS, &tls, "p=tls-server-end-point,,n=,r=x"), None);
        assert_eq!(bound(SCRAM_SHA_256, &tls, "y,,n=,r=x"), Some(ScramError::BindingDowngraded));
        assert_eq!(bound(SCRAM_SHA_256_PLUS, &tls, "n,,n=,r=x"), Some(ScramError::Malformed));
        assert_eq!(bound(SCRAM_SHA_256_PLUS, &tls, "p=tls-unique,,n=,r=x"), Some(ScramError::UnknownBinding));
        assert_eq!(
            bound(SCRAM_SHA_256, &none, "p=tls-server-end-point,,n=,r=x"),
            Some(ScramError::Malformed)
        );
        assert_eq!(bound(SCRAM_SHA_256_PLUS, &none, "n,,n=,r=x"), Some(ScramError::UnknownMechanism));
        assert_eq!(bound(SCRAM_SHA_256, &none, "n,a=bob,n=,r=x"), Some(ScramError::AuthorizationIdentity));
        assert_eq!(bound(SCRAM_SHA_256, &none, "n,,m=1,n=,r=x"), Some(ScramError::UnknownExtension));
    }

    fn play(ours: &ChannelBinding, theirs: &ChannelBinding) -> Result<&'static [u8], ScramError> {
        let verifier = ScramVerifier::derive(b"pencil", b"salt", 2);
        let start = ServerStart::new(verifier, Standing::Sincere, theirs.clone(), Nonce::random().unwrap());
        let first = ClientFirst::new(theirs.mechanisms().iter().copied(), ours, Nonce::random().unwrap())?;
        let mechanism = first.mechanism();
        let (proof, said) = start.on_client_first(mechanism, &first.message())?;
        let needs = first.on_server_first(&said)?;
        let keys = needs.derive(b"pencil");
        let (signature, said) = needs.with_keys(&keys)?;
        let (_, said) = proof.on_client_final(&said)?;
        signature.on_server_final(&said).map(|()| mechanism)
    }

    #[test]
    fn both_sides_bind_to_the_channel_where_both_can() {
        let tls = ChannelBinding::TlsServerEndPoint([1, 2, 3].into());
        let other = ChannelBinding::TlsServerEndPoint([3, 2, 1].into());

        assert_eq!(play(&ChannelBinding::Unavailable, &ChannelBinding::Unavailable), Ok(SCRAM_SHA_256));
        assert_eq!(play(&tls, &tls), Ok(SCRAM_SHA_256_PLUS));
        assert_eq!(play(&ChannelBinding::Unavailable, &tls), Ok(SCRAM_SHA_256));
        assert_eq!(play(&tls, &ChannelBinding::Unavailable), Ok(SCRAM_SHA_256));
        assert_eq!(play(&tls, &other), Err(ScramError::BindingMismatch));
    }

    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        assert_eq!(*prepared("I\u{ad}X".as_bytes()), b"IX");
        assert_eq!(*prepared("\u{2168}".as_bytes()), b"IX");
        assert_eq!(*prepared("a\u{a0}b".as_bytes()), b"a b");
        assert_eq!(*prepared(b"\xff\xfe"), b"\xff\xfe");
        assert_eq!(*prepared(b"bell\x07"), b"bell\x07");
        assert_eq!(*prepared("\u{ad}".as_bytes()), "\u{ad}".as_bytes());
    }

    #[test]
    fn verifiers_are_read_whole_or_not_at_all() {
        let good = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                    WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let verifier = ScramVerifier::parse(good.as_bytes()).unwrap();

        assert!(verifier.accepts_keys(&ScramKeys::derive(b"pencil", verifier.salt(), verifier.iterations())));
        for cut in 0..good.len() {
            assert!(ScramVerifier::parse(&good.as_bytes()[..cut]).is_none());
        }
        assert!(ScramVerifier::parse(good.replace("4096", "0").as_bytes()).is_none());
        assert!(ScramVerifier::parse(good.replace("4096", "1000001").as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[nyp],,?[a-z=,]{0,40}") {
            for message in [bytes.as_slice(), text.as_bytes()] {
                let _ = client().on_server_first(message);
                let verifier = ScramVerifier::derive(b"x", b"y", 1);
                let start = ServerStart::new(
                    verifier, Standing::Sincere, ChannelBinding::Unavailable, Nonce(SERVER_NONCE.into()));
                if let Ok((awaiting, _)) = start.on_client_first(SCRAM_SHA_256, message) {
                    let _ = awaiting.on_client_final(message);
                }
                let _ = AwaitingSignature { expected: Zeroizing::new([0; 32]) }.on_server_final(message);
                let _ = ScramVerifier::parse(message);
            }
        }
    }
}
