//! Our way into PostgreSQL, the mirror of [`opening`](crate::session::opening).
//!
//! A server is trusted with more than a stranger and with less than everything: it may be an impostor until it
//! has proved itself, and it may fail in the middle; its own words about why must reach the client that waits.
//!
//! # Promises
//! - Input is taken in any pieces; what follows ReadyForQuery stays in the inbox. A server that is in a transaction is none of ours.
//! - Frames are bounded by [`MAX_LOGIN_FRAME`], parameters by [`MAX_PARAMETERS`], SCRAM iterations by
//!   [`MAX_ITERATIONS`](crate::auth::scram::MAX_ITERATIONS).
//! - A server that begins SCRAM must finish it: AuthenticationOk before its signature is an error.
//! - Nothing is remembered of what a server says before it is content with us, and has proved what it must.
//! - What the server refuses us with is given whole ([`LoginError::Refused`]).
//!
//! # Refuses
//! To hash a password unasked: [`Progress::NeedsKeys`] lets the driver cache, or do it elsewhere. To negotiate
//! TLS, to retry, to time out. To choose a method: it answers what the server asks for, if it has what that takes.
//!
//! ```text
//! Greeting ─ begin ─► Asked ─► ScramChallenge ─► ScramKeys ─ with_keys ─► ScramSignature ─► Answered
//!                       │ └─────────── cleartext, md5 ──────────────────────────────────────►─┤
//!                       └─ AuthenticationOk ─► Gathering ◄─ AuthenticationOk ─────────────────┘
//!                                                  └─ ReadyForQuery ─► Over (Established)
//! ```
//!
//! PostgreSQL docs, "Message Flow", "Start-up".

use std::fmt;
use std::mem;

use bytes::BytesMut;

use crate::auth::ChannelBinding;
use crate::auth::Credential;
use crate::auth::Md5Hash;
use crate::auth::NoRandomness;
use crate::auth::ScramError;
use crate::auth::ScramKeys;
use crate::auth::scram::AwaitingSignature;
use crate::auth::scram::ClientFirst;
use crate::auth::scram::NeedsKeys;
use crate::auth::scram::Nonce;
use crate::auth::scram::SCRAM_SHA_256_PLUS;
use crate::names::Database;
use crate::names::ServerKey;
use crate::names::User;
use crate::session::violation::sqlstate;
use crate::wire::Malformed;
use crate::wire::control;
use crate::wire::control::Authentication;
use crate::wire::control::Control;
use crate::wire::control::Negotiation;
use crate::wire::control::ServerError;
use crate::wire::control::UnsupportedMethod;
use crate::wire::control::Untaken;
use crate::wire::frame::backend;
use crate::wire::startup::Setting;
use crate::wire::write;

/// The longest message a server may send during a login.
pub const MAX_LOGIN_FRAME: usize = 64 << 10;

/// The most parameters a server may report during a login; PostgreSQL 18 reports fifteen.
pub const MAX_PARAMETERS: usize = 1_000;

/// The transaction status of a server that nobody has used yet.
const IDLE: u8 = b'I';

/// How to log in.
#[derive(Clone, Debug)]
pub struct LoginPlan {
    /// The role.
    pub user: User,
    /// The database.
    pub database: Database,
    /// Session parameters for the startup packet, `user` and `database` not among them.
    pub parameters: Vec<Setting>,
    /// What to prove ourselves with, if the server asks.
    pub credential: Option<Credential>,
    /// The minor version of protocol 3 to ask for, 0 or 2; the server may go lower.
    pub minor: u16,
    /// What there is to bind SCRAM to.
    pub binding: ChannelBinding,
    /// Whether it is bound.
    pub policy: BindingPolicy,
}

/// Whether a login is bound to its TLS connection, in libpq's words (`channel_binding`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BindingPolicy {
    /// Never.
    Disable,
    /// Where both sides can.
    #[default]
    Prefer,
    /// Or there is no login: a server that does not prove that it is the other end of this TLS connection is left.
    Require,
}

/// How far a login has come.
#[must_use]
#[derive(Debug)]
pub enum Progress {
    /// The server is ours.
    Established(Established),
    /// Read more; what is in the outbox is for the server.
    NeedMore,
    /// Derive keys, or find them in a cache by password, salt and count, and say [`with_keys`](Login::with_keys).
    NeedsKeys {
        /// The server's salt.
        salt: Box<[u8]>,
        /// The server's iteration count.
        iterations: u32,
    },
}

/// A server we are logged in to.
#[derive(Clone, Debug)]
pub struct Established {
    /// Its cancel key, if it gave one; not every server does.
    pub key: Option<ServerKey>,
    /// The parameters it reported, in order, each name once with its last value.
    pub parameters: Vec<Setting>,
    /// The minor version of protocol 3 that is spoken.
    pub minor: u16,
}

/// Our way into a server.
#[derive(Debug)]
pub struct Login {
    plan: LoginPlan,
    /// The version spoken: what was asked for until the server says less.
    minor: u16,
    /// Absent if the server gives none.
    key: Option<ServerKey>,
    /// Each name once; at most [`MAX_PARAMETERS`].
    parameters: Vec<Setting>,
    /// Whether SCRAM was begun with channel binding.
    speaks_plus: bool,
    /// Whether the server has proved itself bound to this connection.
    is_bound: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Our proof is sent, and the server has proved what it must.
    Answered,
    /// The startup packet is sent.
    Asked,
    /// We are in; parameters and key are coming.
    Gathering,
    /// Nothing is sent.
    Greeting,
    /// Established or failed.
    Over,
    /// The client-first-message is sent.
    ScramChallenge(ClientFirst),
    /// The driver is finding the keys.
    ScramKeys(NeedsKeys),
    /// The proof is sent; the server has yet to prove itself.
    ScramSignature(AwaitingSignature),
}

impl State {
    /// The messages that have a place in this state.
    fn legal(&self) -> &'static [u8] {
        match self {
            Self::Asked => &[backend::AUTHENTICATION, backend::ERROR, backend::NEGOTIATE, backend::NOTICE],
            Self::Answered | Self::ScramChallenge(_) | Self::ScramSignature(_) => {
                &[backend::AUTHENTICATION, backend::ERROR, backend::NOTICE]
            }
            Self::Gathering => &[
                backend::BACKEND_KEY_DATA,
                backend::ERROR,
                backend::NOTICE,
                backend::PARAMETER_STATUS,
                backend::READY_FOR_QUERY,
            ],
            Self::Greeting | Self::Over | Self::ScramKeys(_) => &[],
        }
    }
}

impl Login {
    /// A login that has not begun.
    pub fn new(plan: LoginPlan) -> Self {
        let minor = plan.minor;
        Self {
            plan,
            minor,
            key: None,
            parameters: Vec::new(),
            speaks_plus: false,
            is_bound: false,
            state: State::Greeting,
        }
    }

    /// Sends the startup packet.
    pub fn begin(&mut self, outbox: &mut BytesMut) {
        let who = [(&b"user"[..], self.plan.user.as_bytes()), (b"database", self.plan.database.as_bytes())];
        let parameters = self.plan.parameters.iter().map(|(name, value)| (&**name, &**value));
        write::startup_message(outbox, self.plan.minor, who.into_iter().chain(parameters));
        self.state = State::Asked;
    }

    /// Takes what has come, says what is to be said. To be called again until [`Progress::Established`].
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn on_input(&mut self, inbox: &mut BytesMut, outbox: &mut BytesMut) -> Result<Progress, LoginError> {
        let result = self.advance(inbox, outbox);
        if result.is_err() {
            self.state = State::Over;
        }
        result
    }

    /// Derives the keys that [`Progress::NeedsKeys`] asks for, here and now; `None` if it does not, or if there is
    /// no password.
    #[cfg(test)]
    fn derive_keys(&self) -> Option<ScramKeys> {
        match (&self.state, &self.plan.credential) {
            (State::ScramKeys(needs), Some(Credential::Password(password))) => {
                Some(needs.derive(password.expose()))
            }
            _ => None,
        }
    }

    /// Answers [`Progress::NeedsKeys`].
    pub fn with_keys(&mut self, keys: &ScramKeys, outbox: &mut BytesMut) -> Result<(), LoginError> {
        let State::ScramKeys(needs) = mem::replace(&mut self.state, State::Over) else {
            return Err(LoginError::OutOfTurn);
        };
        let (awaiting, message) = needs.with_keys(keys)?;
        write::sasl_response(outbox, &message);
        self.state = State::ScramSignature(awaiting);
        Ok(())
    }

    fn advance(&mut self, inbox: &mut BytesMut, outbox: &mut BytesMut) -> Result<Progress, LoginError> {
        loop {
            match &self.state {
                State::Greeting | State::Over => return Err(LoginError::OutOfTurn),
                State::ScramKeys(needs) => {
                    let (salt, iterations) = (needs.salt().into(), needs.iterations());
                    return Ok(Progress::NeedsKeys { salt, iterations });
                }
                _ => {}
            }
            let Some(frame) = control::take(inbox, self.state.legal(), MAX_LOGIN_FRAME)? else {
                return Ok(Progress::NeedMore);
            };
            match control::decode(&frame).map_err(LoginError::Malformed)? {
                Control::Authentication(asked) => self.on_authentication(asked, outbox)?,
                Control::BackendKeyData(key) => self.key = Some(key),
                Control::ErrorResponse(fields) => {
                    return Err(LoginError::Refused(Box::new(fields.to_server_error())));
                }
                Control::NegotiateProtocolVersion(negotiation) => self.on_negotiation(&negotiation)?,
                Control::NoticeResponse(_) => {}
                Control::ParameterStatus { name, value } => self.remember(name, value)?,
                Control::ReadyForQuery(IDLE) => return Ok(Progress::Established(self.establish())),
                Control::ReadyForQuery(_) => return Err(LoginError::Unexpected(backend::READY_FOR_QUERY)),
            }
        }
    }

    fn establish(&mut self) -> Established {
        self.state = State::Over;
        let (key, parameters) = (self.key.take(), mem::take(&mut self.parameters));
        Established { key, parameters, minor: self.minor }
    }

    fn remember(&mut self, name: &[u8], value: &[u8]) -> Result<(), LoginError> {
        if let Some((_, known)) = self.parameters.iter_mut().find(|(known, _)| **known == *name) {
            *known = value.into();
            return Ok(());
        }
        if self.parameters.len() >= MAX_PARAMETERS {
            return Err(LoginError::TooManyParameters);
        }
        self.parameters.push((name.into(), value.into()));
        Ok(())
    }

    /// Down, but not up, not to 3.1 (which does not exist), and not about options: we asked for none.
    fn on_negotiation(&mut self, negotiation: &Negotiation) -> Result<(), LoginError> {
        if negotiation.minor >= self.minor || negotiation.minor == 1 || !negotiation.unsupported.is_empty() {
            return Err(LoginError::BadNegotiation);
        }
        self.minor = negotiation.minor;
        Ok(())
    }

    fn on_authentication(&mut self, asked: Authentication, outbox: &mut BytesMut) -> Result<(), LoginError> {
        let must_bind = self.plan.policy == BindingPolicy::Require;
        self.state = match (mem::replace(&mut self.state, State::Over), asked) {
            (State::Asked | State::Answered, Authentication::Ok) if must_bind && !self.is_bound => {
                return Err(LoginError::Unbound);
            }
            (State::Asked | State::Answered, Authentication::Ok) => State::Gathering,
            // Said before a password is.
            (State::Asked, Authentication::Cleartext | Authentication::Md5(_)) if must_bind => {
                return Err(LoginError::Unbound);
            }
            (State::Asked, Authentication::Cleartext) => self.answer_cleartext(outbox)?,
            (State::Asked, Authentication::Md5(salt)) => self.answer_md5(salt, outbox)?,
            (State::Asked, Authentication::Sasl(mechanisms)) => self.begin_scram(&mechanisms, outbox)?,
            (State::ScramChallenge(first), Authentication::SaslContinue(message)) => {
                self.answer_scram(first.on_server_first(&message)?, outbox)?
            }
            (State::ScramSignature(awaiting), Authentication::SaslFinal(message)) => {
                awaiting.on_server_final(&message)?;
                self.is_bound = self.speaks_plus;
                State::Answered
            }
            (State::ScramChallenge(_) | State::ScramSignature(_), Authentication::Ok) => {
                return Err(LoginError::Unproven);
            }
            (_, Authentication::Unsupported(method)) => return Err(LoginError::UnsupportedMethod(method)),
            _ => return Err(LoginError::Unexpected(backend::AUTHENTICATION)),
        };
        Ok(())
    }

    fn answer_cleartext(&self, outbox: &mut BytesMut) -> Result<State, LoginError> {
        match &self.plan.credential {
            Some(Credential::Password(password)) => write::password_message(outbox, password.expose()),
            other => return Err(unfit(other.as_ref(), Wanted::Cleartext)),
        }
        Ok(State::Answered)
    }

    fn answer_md5(&self, salt: [u8; 4], outbox: &mut BytesMut) -> Result<State, LoginError> {
        let hash = match &self.plan.credential {
            Some(Credential::Md5(hash)) => hash.clone(),
            Some(Credential::Password(password)) => {
                Md5Hash::derive(password.expose(), self.plan.user.as_bytes())
            }
            other => return Err(unfit(other.as_ref(), Wanted::Md5)),
        };
        write::password_message(outbox, &hash.answer(salt));
        Ok(State::Answered)
    }

    fn begin_scram(&mut self, mechanisms: &[Box<[u8]>], outbox: &mut BytesMut) -> Result<State, LoginError> {
        match &self.plan.credential {
            Some(Credential::Keys(_) | Credential::Password(_)) => {}
            other => return Err(unfit(other.as_ref(), Wanted::Sasl)),
        }
        let offered = mechanisms.iter().map(|mechanism| &**mechanism);
        let none = ChannelBinding::Unavailable;
        let binding = if self.plan.policy == BindingPolicy::Disable { &none } else { &self.plan.binding };
        let first = ClientFirst::new(offered, binding, Nonce::random()?)?;
        self.speaks_plus = first.mechanism() == SCRAM_SHA_256_PLUS;
        if self.plan.policy == BindingPolicy::Require && !self.speaks_plus {
            return Err(LoginError::Unbound);
        }
        write::sasl_initial_response(outbox, first.mechanism(), &first.message());
        Ok(State::ScramChallenge(first))
    }

    /// With keys in hand at once; with a password when the driver has derived them.
    fn answer_scram(&self, needs: NeedsKeys, outbox: &mut BytesMut) -> Result<State, LoginError> {
        let Some(Credential::Keys(keys)) = &self.plan.credential else { return Ok(State::ScramKeys(needs)) };
        let (awaiting, message) = needs.with_keys(keys)?;
        write::sasl_response(outbox, &message);
        Ok(State::ScramSignature(awaiting))
    }
}

fn unfit(credential: Option<&Credential>, wanted: Wanted) -> LoginError {
    match credential {
        None => LoginError::NoCredential(wanted),
        Some(_) => LoginError::UnfitCredential(wanted),
    }
}

/// What a server asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The password in the clear.
    Cleartext,
    /// A hash of it.
    Md5,
    /// SCRAM-SHA-256.
    Sasl,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cleartext => "a cleartext password",
            Self::Md5 => "an MD5 password",
            Self::Sasl => "SCRAM-SHA-256",
        })
    }
}

/// Why we do not get in. `Display` is for the log; what of it a client hears is the driver's to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoginError {
    /// The server answered our wish for a protocol version with what is none.
    BadNegotiation,
    /// A message that cannot be read.
    Malformed(Malformed),
    /// The server wants proof, and we have nothing.
    NoCredential(Wanted),
    /// The operating system has no random bytes for us.
    NoRandomness,
    /// The driver called what this state is not for: a fault of ours.
    OutOfTurn,
    /// The server said no, in these words.
    Refused(Box<ServerError>),
    /// SCRAM failed on our side of it; the server may be an impostor.
    Scram(ScramError),
    /// More parameters than any server has.
    TooManyParameters,
    /// Channel binding is required, and the server does without.
    Unbound,
    /// A message that has no place here, by its tag.
    Unexpected(u8),
    /// What we have does not answer what the server asks for.
    UnfitCredential(Wanted),
    /// The server let us in without proving that it knows the password.
    Unproven,
    /// The server asks for a method we do not speak.
    UnsupportedMethod(UnsupportedMethod),
}

impl LoginError {
    /// The SQLSTATE: the server's own if it refused us and gave one.
    pub fn sqlstate(&self) -> &str {
        match self {
            Self::Refused(error) => error.sqlstate().unwrap_or(sqlstate::CONNECTION_FAILURE),
            Self::BadNegotiation
            | Self::Malformed(_)
            | Self::Scram(_)
            | Self::TooManyParameters
            | Self::Unbound
            | Self::Unexpected(_)
            | Self::Unproven => sqlstate::PROTOCOL_VIOLATION,
            Self::NoCredential(_) | Self::UnfitCredential(_) | Self::UnsupportedMethod(_) => {
                sqlstate::INVALID_AUTHORIZATION_SPECIFICATION
            }
            Self::NoRandomness | Self::OutOfTurn => "XX000",
        }
    }
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadNegotiation => f.write_str("the server's protocol negotiation makes no sense"),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::NoCredential(wanted) => {
                write!(f, "the server asks for {wanted}, and there is no secret for this user")
            }
            Self::NoRandomness => NoRandomness.fmt(f),
            Self::OutOfTurn => f.write_str("internal error: the login was driven out of turn"),
            Self::Refused(error) => error.fmt(f),
            Self::Scram(error) => error.fmt(f),
            Self::TooManyParameters => f.write_str("the server reports too many parameters"),
            Self::Unbound => f.write_str(
                "channel_binding is \"require\", and the server logs in without it: no TLS, no SCRAM-SHA-256-PLUS, or somebody in between",
            ),
            Self::Unexpected(tag) => write!(f, "unexpected message {:?} during login", char::from(*tag)),
            Self::UnfitCredential(wanted) => {
                write!(f, "the server asks for {wanted}, which the secret for this user cannot answer")
            }
            Self::Unproven => f.write_str("the server ended SCRAM without proving itself"),
            Self::UnsupportedMethod(method) => {
                write!(f, "the server asks for an authentication method that is not supported: {method}")
            }
        }
    }
}

impl std::error::Error for LoginError {}

impl From<NoRandomness> for LoginError {
    fn from(NoRandomness: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

impl From<ScramError> for LoginError {
    fn from(error: ScramError) -> Self {
        Self::Scram(error)
    }
}

impl From<Untaken> for LoginError {
    fn from(untaken: Untaken) -> Self {
        match untaken {
            Untaken::Malformed(malformed) => Self::Malformed(malformed),
            Untaken::Unexpected(tag) => Self::Unexpected(tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::auth::Method;
    use crate::auth::Salts;
    use crate::auth::ScramVerifier;
    use crate::auth::Secret;
    use crate::auth::Verifier;
    use crate::names::ClientKey;
    use crate::session::opening;
    use crate::session::opening::Opening;
    use crate::session::opening::OpeningError;
    use crate::session::opening::Proof;
    use crate::session::opening::Step;

    const SALTS: [u8; 32] = [7; 32];

    fn plan(credential: Option<Credential>) -> LoginPlan {
        LoginPlan {
            user: "ann".into(),
            database: "shop".into(),
            parameters: vec![(b"application_name"[..].into(), b"pool"[..].into())],
            credential,
            minor: 2,
            binding: ChannelBinding::Unavailable,
            policy: BindingPolicy::default(),
        }
    }

    fn password(text: &str) -> Option<Credential> {
        Some(Credential::Password(Secret::from(text)))
    }

    fn verifier(text: &str) -> Option<Verifier> {
        Some(Verifier::from_secret(&Secret::from(text)).unwrap())
    }

    fn scram(text: &str) -> Option<Verifier> {
        Some(Verifier::Scram(ScramVerifier::derive(text.as_bytes(), b"of the server", 5)))
    }

    /// Plays a login against an opening, in memory, in pieces of `size` bytes.
    fn play(
        method: Method,
        verifier: Option<Verifier>,
        plan: LoginPlan,
        size: usize,
    ) -> Result<(Established, Proof), (LoginError, OpeningError)> {
        let settings = opening::Settings { salts: Salts::from_key(SALTS), tls: opening::Tls::Unavailable };
        let (mut server, mut login) = (Opening::new(settings), Login::new(plan));
        let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
        let (mut server_inbox, mut client_inbox) = (BytesMut::new(), BytesMut::new());
        let (mut verifier, mut proven, mut refused) = (verifier, None, None);
        login.begin(&mut to_server);
        for _ in 0..100_000 {
            let arriving = to_server.len().min(size);
            server_inbox.extend_from_slice(&to_server.split_to(arriving));
            if proven.is_none() && refused.is_none() {
                let step = server.on_input(&mut server_inbox, &mut to_client).and_then(|step| match step {
                    Step::NeedsKeys { password, salt, iterations } => {
                        let keys = ScramKeys::derive(password.expose(), &salt, iterations);
                        server.with_keys(&keys).map(|()| Step::NeedMore)
                    }
                    step => Ok(step),
                });
                match step {
                    Ok(Step::NeedMore) => {}
                    Ok(Step::LookUp(request)) => {
                        assert_eq!((request.user, request.database), ("ann".into(), "shop".into()));
                        server.on_verifier(method, verifier.take(), &mut to_client).unwrap();
                    }
                    Ok(Step::Proven(proof)) => {
                        let parameters: [(&[u8], &[u8]); 2] = [(b"TimeZone", b"UTC"), (b"x", b"\xff")];
                        opening::welcome(&mut to_client, parameters, &ClientKey::new(9, &[1; 32]));
                        proven = Some(proof);
                    }
                    Ok(step) => panic!("{step:?}"),
                    Err(error) => {
                        let message = error.to_string();
                        write::error_response(
                            &mut to_client,
                            "FATAL",
                            error.sqlstate(),
                            &message,
                            None,
                            None,
                            None,
                        );
                        refused = Some(error);
                    }
                }
            }
            let arriving = to_client.len().min(size);
            client_inbox.extend_from_slice(&to_client.split_to(arriving));
            match login.on_input(&mut client_inbox, &mut to_server) {
                Ok(Progress::NeedMore) => {}
                Ok(Progress::NeedsKeys { .. }) => {
                    let keys = login.derive_keys().unwrap();
                    login.with_keys(&keys, &mut to_server).unwrap();
                }
                Ok(Progress::Established(established)) => return Ok((established, proven.unwrap())),
                Err(error) => return Err((error, refused.unwrap_or(OpeningError::OutOfTurn))),
            }
        }
        panic!("the two wait for each other");
    }

    #[test]
    fn every_method_lets_the_right_password_in_and_no_other() {
        let md5 = || Some(Verifier::Md5(Md5Hash::derive(b"pencil", b"ann")));
        type Stored = fn() -> Option<Verifier>;
        let table: [(Method, Stored); 7] = [
            (Method::ScramSha256, || scram("pencil")),
            (Method::ScramSha256, || verifier("pencil")),
            (Method::Md5, || scram("pencil")),
            (Method::Md5, || verifier("pencil")),
            (Method::Md5, || Some(Verifier::Md5(Md5Hash::derive(b"pencil", b"ann")))),
            (Method::Password, || scram("pencil")),
            (Method::Password, || verifier("pencil")),
        ];
        for (method, verifier) in table {
            for size in [1, 7, 1000] {
                let (established, _) = play(method, verifier(), plan(password("pencil")), size).unwrap();
                assert_eq!(established.minor, 2);
                assert_eq!(established.key.unwrap().secret(), [1; 32]);
                assert_eq!(established.parameters.len(), 2);
            }
            refused(method, verifier(), password("pencils"));
            refused(method, None, password("pencil"));
        }
        assert!(
            play(Method::Md5, md5(), plan(Some(Credential::Md5(Md5Hash::derive(b"pencil", b"ann")))), 9)
                .is_ok()
        );
        refused(Method::ScramSha256, md5(), password("pencil"));
        assert!(matches!(play(Method::Trust, None, plan(None), 9), Ok((_, Proof::Trust))));
    }

    fn refused(method: Method, verifier: Option<Verifier>, credential: Option<Credential>) {
        let (ours, theirs) = play(method, verifier, plan(credential), 50).unwrap_err();
        let LoginError::Refused(error) = ours else { panic!("{ours:?}") };

        assert_eq!(theirs, OpeningError::WrongPassword("ann".into()));
        assert_eq!(error.sqlstate(), Some("28P01"));
        assert_eq!(*error.message, *b"password authentication failed for user \"ann\"");
    }

    #[test]
    fn a_clients_proof_logs_us_in_without_its_password() {
        // The client proves itself to us; its keys, and no password, prove us to a server with the same verifier.
        let (_, proof) = play(Method::ScramSha256, scram("pencil"), plan(password("pencil")), 11).unwrap();
        let keys = proof.credential();
        assert!(matches!(keys, Some(Credential::Keys(_))));

        assert!(play(Method::ScramSha256, scram("pencil"), plan(keys.clone()), 11).is_ok());

        let (error, _) = play(Method::ScramSha256, verifier("pencil"), plan(keys.clone()), 11).unwrap_err();
        assert_eq!(error, LoginError::Scram(ScramError::KeysDoNotFit));
        refused(Method::ScramSha256, scram("changed"), keys);
    }

    #[test]
    fn a_clients_password_logs_us_in_to_whatever_asks() {
        let (_, proof) = play(Method::Password, scram("pencil"), plan(password("pencil")), 11).unwrap();

        for method in [Method::Md5, Method::Password, Method::ScramSha256] {
            assert!(play(method, verifier("pencil"), plan(proof.credential()), 11).is_ok());
        }
    }

    #[test]
    fn what_the_server_asks_and_we_lack_is_named() {
        let fails =
            |method, credential| play(method, verifier("pencil"), plan(credential), 99).unwrap_err().0;
        let keys = || Some(Credential::Keys(ScramKeys::derive(b"pencil", b"salt", 1)));

        assert_eq!(fails(Method::ScramSha256, None), LoginError::NoCredential(Wanted::Sasl));
        assert_eq!(fails(Method::Md5, None), LoginError::NoCredential(Wanted::Md5));
        assert_eq!(fails(Method::Password, None), LoginError::NoCredential(Wanted::Cleartext));
        assert_eq!(fails(Method::Password, keys()), LoginError::UnfitCredential(Wanted::Cleartext));
        assert_eq!(fails(Method::Md5, keys()), LoginError::UnfitCredential(Wanted::Md5));
    }

    /// A login that hears these bytes from its server, in pieces of these sizes.
    fn hears(credential: Option<Credential>, bytes: &[u8], sizes: &[usize]) -> String {
        let (mut login, mut inbox, mut outbox) =
            (Login::new(plan(credential)), BytesMut::new(), BytesMut::new());
        login.begin(&mut outbox);
        let mut rest = bytes;
        let mut sizes = sizes.iter().cycle();
        loop {
            match login.on_input(&mut inbox, &mut outbox) {
                Ok(Progress::NeedMore) if rest.is_empty() => return format!("waits, {} left", inbox.len()),
                Ok(Progress::NeedMore) => {
                    let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                    inbox.extend_from_slice(piece);
                    rest = after;
                }
                Ok(Progress::NeedsKeys { .. }) => {
                    let keys = login.derive_keys().unwrap();
                    login.with_keys(&keys, &mut outbox).unwrap();
                }
                Ok(progress) => return format!("{progress:?}, {} left", inbox.len() + rest.len()),
                Err(error) => return format!("{error:?}"),
            }
        }
    }

    fn said(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut out);
        out
    }

    #[test]
    fn an_older_server_lowers_the_version_and_may_give_no_key() {
        let bytes = said(|out| {
            write::negotiate_protocol_version(out, 0, &[]);
            write::notice_response(out, "NOTICE", "00000", "hello", None, None);
            write::authentication_ok(out);
            write::parameter_status(out, b"a", b"1");
            write::parameter_status(out, b"a", b"2");
            write::ready_for_query(out, b'I');
            write::ready_for_query(out, b'I');
        });

        assert_eq!(
            hears(None, &bytes, &[1]),
            "Established(Established { key: None, parameters: [([97], [50])], minor: 0 }), 6 left"
        );
    }

    #[test]
    fn a_server_that_negotiates_nonsense_is_left() {
        for bytes in [
            said(|out| write::negotiate_protocol_version(out, 3, &[])),
            said(|out| write::negotiate_protocol_version(out, 2, &[])),
            said(|out| write::negotiate_protocol_version(out, 1, &[])),
            said(|out| write::negotiate_protocol_version(out, 0, &[b"_pq_.x"])),
        ] {
            assert_eq!(hears(None, &bytes, &[100]), "BadNegotiation");
        }
    }

    #[test]
    fn a_server_that_skips_its_own_proof_is_left() {
        let begun = said(|out| {
            write::authentication_sasl(out, &[b"SCRAM-SHA-256"]);
            write::authentication_ok(out);
        });
        assert_eq!(hears(password("pencil"), &begun, &[5]), "Unproven");

        let unknown = said(|out| write::authentication_sasl(out, &[b"OAUTHBEARER"]));
        assert_eq!(hears(password("pencil"), &unknown, &[5]), "Scram(UnknownMechanism)");
    }

    #[test]
    fn what_has_no_place_in_a_login_ends_it() {
        assert_eq!(hears(None, b"T", &[1]), "Unexpected(84)");
        assert_eq!(hears(None, b"Z\0\0\0\x05I", &[9]), "Unexpected(90)");
        assert_eq!(hears(None, b"R\0\0\0\x08\0\0\0\x07", &[9]), "UnsupportedMethod(UnsupportedMethod(7))");
        assert_eq!(
            hears(None, b"E\0\x01\0\0", &[9]),
            "Malformed(TooLong { tag: 69, len: 65537, limit: 65536 })"
        );
        let twice = said(|out| {
            write::authentication_ok(out);
            write::authentication_ok(out);
        });
        assert_eq!(hears(None, &twice, &[9]), "Unexpected(82)");
        let used = said(|out| {
            write::authentication_ok(out);
            write::ready_for_query(out, b'T');
        });
        assert_eq!(hears(None, &used, &[9]), "Unexpected(90)");
    }

    #[test]
    fn a_server_that_has_not_proved_itself_has_nothing_remembered_of_it() {
        for asked in [
            said(|out| write::parameter_status(out, b"a", b"b")),
            said(|out| {
                write::authentication_cleartext(out);
                write::parameter_status(out, b"a", b"b");
            }),
            said(|out| {
                write::authentication_sasl(out, &[b"SCRAM-SHA-256"]);
                write::parameter_status(out, b"a", b"b");
            }),
        ] {
            assert_eq!(hears(password("pencil"), &asked, &[100]), "Unexpected(83)");
        }
    }

    #[test]
    fn an_error_without_a_code_still_has_one_for_the_client() {
        let mut login = Login::new(plan(None));
        login.begin(&mut BytesMut::new());
        let mut inbox = BytesMut::from(&b"E\0\0\0\x10SFATAL\0Mhi\0\0"[..]);

        let error = login.on_input(&mut inbox, &mut BytesMut::new()).unwrap_err();

        assert_eq!((error.sqlstate(), error.to_string()), ("08006", "FATAL: hi".into()));
        assert!(matches!(login.on_input(&mut inbox, &mut BytesMut::new()), Err(LoginError::OutOfTurn)));
    }

    #[test]
    fn a_server_without_end_is_left() {
        let bytes = said(|out| {
            write::authentication_ok(out);
            for number in 0..=MAX_PARAMETERS {
                write::parameter_status(out, number.to_string().as_bytes(), b"");
            }
        });

        assert_eq!(hears(None, &bytes, &[1000]), "TooManyParameters");
    }

    /// What a server might say, good and bad mixed.
    fn talk() -> impl Strategy<Value = Vec<u8>> {
        let good = [
            said(write::authentication_ok),
            said(write::authentication_cleartext),
            said(|out| write::authentication_md5(out, *b"salt")),
            said(|out| write::authentication_sasl(out, &[b"SCRAM-SHA-256"])),
            said(|out| write::authentication_sasl_continue(out, b"r=x,s=AAAA,i=1")),
            said(|out| write::authentication_sasl_final(out, b"v=AAAA")),
            said(|out| write::negotiate_protocol_version(out, 0, &[])),
            said(|out| write::parameter_status(out, b"a", b"b")),
            said(|out| write::backend_key_data(out, 1, b"abcd")),
            said(|out| write::error_response(out, "FATAL", "57P03", "later", None, None, None)),
            said(|out| write::notice_response(out, "NOTICE", "00000", "now", None, None)),
            said(|out| write::ready_for_query(out, b'I')),
        ];
        let random = (prop::sample::select(b"RSKENvZ".to_vec()), prop::collection::vec(any::<u8>(), 0..40));
        let piece = prop_oneof![
            8 => prop::sample::select(good.to_vec()).prop_map(|frame| frame.to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..12),
            1 => random.prop_map(|(tag, body)| {
                let length = u8::try_from(body.len() + 4).unwrap();
                [&[tag, 0, 0, 0, length], &body[..]].concat()
            }),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter_and_nothing_panics(
            bytes in talk(),
            sizes in prop::collection::vec(1..30_usize, 1..5),
            has_password in any::<bool>(),
        ) {
            let credential = || has_password.then(|| password("pencil")).flatten();

            prop_assert_eq!(
                hears(credential(), &bytes, &[bytes.len().max(1)]),
                hears(credential(), &bytes, &sizes)
            );
        }
    }
}
