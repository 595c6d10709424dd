//! A client's way in: encryption, then startup or cancel, then authentication, then welcome.
//!
//! Everything before the welcome is said by somebody who may be anybody, so it has a machine of its own, which
//! ends in outcomes of different types: a client admitted is never a client that merely asked for a cancel.
//!
//! # Promises
//! - Input is taken in any pieces; what is not part of the opening (a first Query after the proof) stays in the inbox.
//! - Whatever is too long, unknown or out of turn is refused before it is complete, and nothing is allocated by a
//!   length that was sent.
//! - Bytes that arrive unencrypted where TLS was just agreed on are refused (CVE-2021-3935).
//! - A stranger hears what a wrong password hears: the same requests, the same error.
//!
//! # Refuses
//! To look anybody up, to time out, to shake hands in TLS, to hash a password unasked: the driver does, between two steps. To write an
//! ErrorResponse: the error returned has the words, the driver decides whether they are sent.
//!
//! ```text
//!          SSLRequest, GSSENCRequest (each once)            on_verifier         the client's proof
//! Packet ─────────► Deciding ─► (Handshaking) ─► Packet ─► LookingUp ─► Cleartext │ Md5 │ Scram… ─► Proven ─► Over
//!   │ └────────────────── StartupMessage ─────────────────────┘                            │
//!   └─ CancelRequest ─► Over                                       any error ─► Over ◄─────┘
//! ```
//!
//! PostgreSQL docs, "Message Flow", "Start-up".

use std::fmt;
use std::mem;

use bytes::BytesMut;

use crate::auth::ChannelBinding;
use crate::auth::Credential;
use crate::auth::Md5Hash;
use crate::auth::Method;
use crate::auth::NoRandomness;
use crate::auth::Salts;
use crate::auth::ScramError;
use crate::auth::ScramKeys;
use crate::auth::Secret;
use crate::auth::Verifier;
use crate::auth::password::Md5Salt;
use crate::auth::password::random_md5_salt;
use crate::auth::scram::AwaitingProof;
use crate::auth::scram::DEFAULT_ITERATIONS;
use crate::auth::scram::Nonce;
use crate::auth::scram::ServerStart;
use crate::auth::scram::Standing;
use crate::names::ClientKey;
use crate::names::Database;
use crate::names::User;
use crate::session::violation::sqlstate;
use crate::wire::Malformed;
use crate::wire::control::Untaken;
use crate::wire::control::take as take_frame;
use crate::wire::frame::HEADER;
use crate::wire::frame::frontend::PASSWORD;
use crate::wire::startup;
use crate::wire::startup::MAX_SETTINGS;
use crate::wire::startup::OptionsError;
use crate::wire::startup::Packet;
use crate::wire::startup::Replication;
use crate::wire::startup::Setting;
use crate::wire::startup::StartupError;
use crate::wire::startup::StartupMessage;
use crate::wire::startup::TLS_HANDSHAKE;
use crate::wire::write;

/// The longest message a client may prove itself with (`PG_MAX_AUTH_TOKEN_LENGTH`).
pub const MAX_PASSWORD_MESSAGE: usize = 64 << 10;

/// AuthenticationOk, ReadyForQuery, and BackendKeyData without the secret.
const LAST_WORDS: usize = 9 + 6 + 9;

/// The longest message of SASL, its type byte included (`PG_MAX_SASL_MESSAGE_LENGTH` in auth-sasl.c): a stranger has no more kept
/// of what it says than it takes.
pub const MAX_SASL_MESSAGE: usize = 1 + 1024;

/// What an opening is given to begin with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Salts for those who have none stored; the same for all clients of this process.
    pub salts: Salts,
    /// Whether TLS can be had.
    pub tls: Tls,
}

/// Whether TLS can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tls {
    /// The driver is asked when a client wants it.
    Available,
    /// Clients are told so without asking the driver.
    #[default]
    Unavailable,
}

/// The encryption a client asks for, where it is the driver's to decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encryption {
    /// The client has begun its handshake already (`sslnegotiation=direct`): its bytes are in the inbox, untouched.
    DirectTls,
    /// An SSLRequest.
    Tls,
}

/// What the driver has to do next.
#[must_use]
#[derive(Debug)]
pub enum Step {
    /// Close: the client wanted somebody else's query cancelled, and no answer is ever given.
    Cancel(ClientKey),
    /// Say [`accept_encryption`](Opening::accept_encryption) or [`decline_encryption`](Opening::decline_encryption).
    Encryption(Encryption),
    /// Find out how this user must prove itself, and say [`on_verifier`](Opening::on_verifier).
    LookUp(LoginRequest),
    /// Read more; what is in the outbox is for the client.
    NeedMore,
    /// Derive keys, or find them in a cache by password, salt and count, and say [`with_keys`](Opening::with_keys).
    NeedsKeys {
        /// What the client says its password is.
        password: Secret,
        /// The salt of its verifier; of a stranger, that it would have.
        salt: Box<[u8]>,
        /// Its iteration count.
        iterations: u32,
    },
    /// The client is who it says. Find it a pool and [`welcome`] it.
    Proven(Proof),
    /// Find out what this token proves, and say [`on_token`](Opening::on_token).
    Token(Secret),
}

/// Who wants in, and what for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginRequest {
    /// The role.
    pub user: User,
    /// The database; the one named as the user, unless said otherwise.
    pub database: Database,
    /// Session parameters in the order in which they take effect, the last of a name winning: those of `options`,
    /// then those of the packet. `user`, `database`, `options`, `replication` and `_pq_.*` are not among them.
    pub parameters: Vec<Setting>,
    /// The minor version of protocol 3 that is spoken from here on.
    pub minor: u16,
    /// What kind of session it is to be.
    pub replication: Replication,
    /// The `_pq_.*` options, all declined by NegotiateProtocolVersion already.
    pub protocol_options: Vec<Box<[u8]>>,
}

impl LoginRequest {
    /// How long the secret of this client's cancel key is: 4 bytes before protocol 3.2, 32 from then on.
    pub fn cancel_secret_len(&self) -> usize {
        if self.minor >= 2 { 32 } else { 4 }
    }
}

/// How a client proved itself, and what it left us to log in with.
#[derive(Debug)]
pub enum Proof {
    /// By a certificate, in the handshake.
    Certificate,
    /// By a hash that is good for our salt only.
    Md5,
    /// By the password itself.
    Password(Secret),
    /// By SCRAM: keys for the salt and iteration count of its verifier.
    Scram(ScramKeys),
    /// By a token, which is no password of anybody's.
    Token,
    /// It did not have to.
    Trust,
}

impl Proof {
    /// What a server of the same user will take from us, if anything.
    pub fn credential(&self) -> Option<Credential> {
        match self {
            Self::Certificate | Self::Md5 | Self::Token | Self::Trust => None,
            Self::Password(password) => Some(Credential::Password(password.clone())),
            Self::Scram(keys) => Some(Credential::Keys(keys.clone())),
        }
    }
}

/// Somebody who may not come in, as far as that is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// The address it comes from, or `[local]`.
    pub host: Box<str>,
    /// Who it says it is.
    pub user: User,
    /// What it asks for; `None` is physical replication.
    pub database: Option<Database>,
    /// Whether TLS is spoken.
    pub is_encrypted: bool,
}

impl Visitor {
    /// The words of `ClientAuthentication` in auth.c.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host \"{}\", user \"{}\", ", self.host, self.user)?;
        if let Some(database) = &self.database {
            write!(f, "database \"{database}\", ")?;
        }
        f.write_str(if self.is_encrypted { "SSL encryption" } else { "no encryption" })
    }
}

/// A client's way in.
#[derive(Debug)]
pub struct Opening {
    settings: Settings,
    /// What there is to bind SCRAM to, once inside TLS.
    binding: ChannelBinding,
    /// The encryptions asked for so far; at most one of each.
    asked: Vec<Asked>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Gss,
    Tls,
}

#[derive(Debug)]
enum State {
    /// The driver is deriving the keys of the password that has come.
    Checking { user: User, verifier: Option<Verifier>, password: Secret },
    /// A password is to come in the clear. No verifier: nothing will do.
    Cleartext { user: User, verifier: Option<Verifier>, salt: Box<[u8]>, iterations: u32 },
    /// The driver has not decided yet.
    Deciding(Encryption),
    /// `S` is said, or was not needed; [`Opening::encrypted`] is to come.
    Handshaking,
    /// The driver has not found the verifier yet.
    LookingUp { user: User },
    /// An MD5 answer is to come. No hash: nothing will do.
    Md5 { user: User, hash: Option<Md5Hash>, salt: Md5Salt },
    /// Refused, cancelled or admitted; nothing is to come.
    Over,
    /// An untagged packet is to come.
    Packet,
    /// The proof is good and the driver has not heard of it.
    Proven(Proof),
    /// A SASLInitialResponse is to come.
    ScramFirst { user: User, start: ServerStart },
    /// A SASLResponse is to come.
    ScramProof { user: User, awaiting: AwaitingProof },
    /// A token is to come, in the clear.
    Token { user: User },
    /// The driver has not judged the token yet.
    Verifying { user: User },
}

impl Opening {
    /// Awaits a client's first byte.
    pub fn new(settings: Settings) -> Self {
        Self { settings, binding: ChannelBinding::Unavailable, asked: Vec::new(), state: State::Packet }
    }

    /// Takes what has come, says what is to be said. To be called again after every step but `Cancel` and `Proven`,
    /// and after whatever the step asked for.
    ///
    /// # Errors
    /// The client is to be told [`OpeningError`]'s words, as FATAL, and closed; the opening is over.
    pub fn on_input(&mut self, inbox: &mut BytesMut, outbox: &mut BytesMut) -> Result<Step, OpeningError> {
        loop {
            let advance = match mem::replace(&mut self.state, State::Over) {
                State::Packet => self.on_packet(inbox, outbox)?,
                State::Proven(proof) => return Ok(Step::Proven(proof)),
                waiting @ (State::Checking { .. }
                | State::Deciding(_)
                | State::Handshaking
                | State::LookingUp { .. }
                | State::Over
                | State::Verifying { .. }) => Advance::Wait(waiting),
                proving => Self::on_proof(proving, inbox, outbox)?,
            };
            match advance {
                Advance::Next(state) => self.state = state,
                Advance::Stop(state, step) => {
                    self.state = state;
                    return Ok(step);
                }
                Advance::Wait(state) => {
                    self.state = state;
                    return Ok(Step::NeedMore);
                }
            }
        }
    }

    /// Agrees to encrypt. For an SSLRequest, `S` must reach the client before the handshake begins, and nothing may
    /// have come from it in between: it would be taken as if it had come encrypted.
    pub fn accept_encryption(&mut self, inbox: &BytesMut, outbox: &mut BytesMut) -> Result<(), OpeningError> {
        let State::Deciding(encryption) = self.leave(|state| matches!(state, State::Deciding(_)))? else {
            return Err(OpeningError::OutOfTurn);
        };
        if encryption == Encryption::Tls {
            if !inbox.is_empty() {
                return Err(OpeningError::EarlyBytes);
            }
            outbox.extend_from_slice(b"S");
        }
        self.state = State::Handshaking;
        Ok(())
    }

    /// Refuses to encrypt; the client decides whether it goes on without. One that began directly cannot.
    pub fn decline_encryption(&mut self, outbox: &mut BytesMut) -> Result<(), OpeningError> {
        let State::Deciding(encryption) = self.leave(|state| matches!(state, State::Deciding(_)))? else {
            return Err(OpeningError::OutOfTurn);
        };
        if encryption == Encryption::DirectTls {
            return Err(OpeningError::DirectTlsUnavailable);
        }
        outbox.extend_from_slice(b"N");
        self.state = State::Packet;
        Ok(())
    }

    /// The handshake is done: what comes from here on was inside it.
    pub fn encrypted(&mut self, binding: ChannelBinding) -> Result<(), OpeningError> {
        self.leave(|state| matches!(state, State::Handshaking))?;
        self.asked = vec![Asked::Gss, Asked::Tls];
        self.binding = binding;
        self.state = State::Packet;
        Ok(())
    }

    /// Has the user prove itself with a token in place of a password.
    pub fn ask_token(&mut self, outbox: &mut BytesMut) -> Result<(), OpeningError> {
        let State::LookingUp { user } = self.leave(|state| matches!(state, State::LookingUp { .. }))? else {
            return Err(OpeningError::OutOfTurn);
        };
        write::authentication_cleartext(outbox);
        self.state = State::Token { user };
        Ok(())
    }

    /// Whether the token proves that the user may come in.
    pub fn on_token(&mut self, is_accepted: bool) -> Result<(), OpeningError> {
        let State::Verifying { user } = self.leave(|state| matches!(state, State::Verifying { .. }))? else {
            return Err(OpeningError::OutOfTurn);
        };
        if !is_accepted {
            return Err(OpeningError::WrongPassword(user));
        }
        self.state = State::Proven(Proof::Token);
        Ok(())
    }

    /// How the user must prove itself; no verifier, no such user. A SCRAM verifier makes `md5` SCRAM, as in
    /// PostgreSQL; under `md5`, strangers are asked for md5 (use `scram-sha-256` where all verifiers are SCRAM's).
    pub fn on_verifier(
        &mut self,
        method: Method,
        verifier: Option<Verifier>,
        outbox: &mut BytesMut,
    ) -> Result<(), OpeningError> {
        let State::LookingUp { user } = self.leave(|state| matches!(state, State::LookingUp { .. }))? else {
            return Err(OpeningError::OutOfTurn);
        };
        self.state = match (method, verifier) {
            // Whether there is one that names the user, only the driver knows: see `on_certificate`.
            (Method::Cert, _) => return Err(OpeningError::NoCertificate),
            (Method::Trust, _) => State::Proven(Proof::Trust),
            (Method::Password, verifier) => {
                write::authentication_cleartext(outbox);
                self.await_password(user, verifier)
            }
            (Method::Md5, None) => ask_md5(user, None, outbox)?,
            (Method::Md5, Some(Verifier::Md5(hash))) => ask_md5(user, Some(hash), outbox)?,
            (Method::Md5, Some(Verifier::Plaintext(plain))) => {
                let hash = Md5Hash::derive(plain.password().expose(), user.as_bytes());
                ask_md5(user, Some(hash), outbox)?
            }
            (Method::Md5 | Method::ScramSha256, verifier) => self.ask_scram(user, verifier, outbox)?,
        };
        Ok(())
    }

    /// The user proves itself by the certificate it showed in the handshake, if that `names_user`.
    pub fn on_certificate(&mut self, names_user: bool) -> Result<(), OpeningError> {
        let State::LookingUp { user } = self.leave(|state| matches!(state, State::LookingUp { .. }))? else {
            return Err(OpeningError::OutOfTurn);
        };
        if !names_user {
            return Err(OpeningError::WrongCertificate(user));
        }
        self.state = State::Proven(Proof::Certificate);
        Ok(())
    }

    /// Keys are derived for everybody, also where nothing is checked against them: the haste of a refusal would tell
    /// what is stored, if anything is.
    fn await_password(&self, user: User, verifier: Option<Verifier>) -> State {
        let (salt, iterations) = match &verifier {
            Some(Verifier::Scram(verifier)) => (verifier.salt().into(), verifier.iterations()),
            _ => (self.settings.salts.salt_for(user.as_bytes()).into(), DEFAULT_ITERATIONS),
        };
        State::Cleartext { user, verifier, salt, iterations }
    }

    /// Answers [`Step::NeedsKeys`].
    ///
    /// # Errors
    /// The password is wrong; as for [`on_input`](Self::on_input).
    pub fn with_keys(&mut self, keys: &ScramKeys) -> Result<(), OpeningError> {
        let State::Checking { user, verifier, password } =
            self.leave(|state| matches!(state, State::Checking { .. }))?
        else {
            return Err(OpeningError::OutOfTurn);
        };
        if !verifier.is_some_and(|verifier| verifier.accepts(&password, keys, user.as_bytes())) {
            return Err(OpeningError::WrongPassword(user));
        }
        self.state = State::Proven(Proof::Password(password));
        Ok(())
    }

    fn ask_scram(
        &self,
        user: User,
        verifier: Option<Verifier>,
        outbox: &mut BytesMut,
    ) -> Result<State, OpeningError> {
        let salts = &self.settings.salts;
        let (verifier, standing) = match verifier {
            Some(Verifier::Scram(verifier)) => (verifier, Standing::Sincere),
            Some(Verifier::Plaintext(plain)) => {
                (plain.scram(salts, user.as_bytes()).clone(), Standing::Sincere)
            }
            Some(Verifier::Md5(_)) | None => (salts.stranger(user.as_bytes()), Standing::Doomed),
        };
        write::authentication_sasl(outbox, self.binding.mechanisms());
        let start = ServerStart::new(verifier, standing, self.binding.clone(), Nonce::random()?);
        Ok(State::ScramFirst { user, start })
    }

    /// The state, if it is the one a call is for. Otherwise the driver is wrong, and it stays.
    fn leave(&mut self, is_turn: impl FnOnce(&State) -> bool) -> Result<State, OpeningError> {
        if !is_turn(&self.state) {
            return Err(OpeningError::OutOfTurn);
        }
        Ok(mem::replace(&mut self.state, State::Over))
    }

    fn on_packet(&mut self, inbox: &mut BytesMut, outbox: &mut BytesMut) -> Result<Advance, OpeningError> {
        if inbox.first() == Some(&TLS_HANDSHAKE) && self.asked.is_empty() {
            return match self.settings.tls {
                Tls::Available => Ok(Advance::decide(Encryption::DirectTls)),
                Tls::Unavailable => Err(OpeningError::DirectTlsUnavailable),
            };
        }
        let Some(packet) = startup::take(inbox)? else { return Ok(Advance::Wait(State::Packet)) };
        match packet {
            Packet::Cancel(key) => Ok(Advance::Stop(State::Over, Step::Cancel(key))),
            Packet::GssEncRequest => {
                self.ask(Asked::Gss)?;
                outbox.extend_from_slice(b"N");
                Ok(Advance::Next(State::Packet))
            }
            Packet::SslRequest => {
                self.ask(Asked::Tls)?;
                if self.settings.tls == Tls::Available {
                    return Ok(Advance::decide(Encryption::Tls));
                }
                outbox.extend_from_slice(b"N");
                Ok(Advance::Next(State::Packet))
            }
            Packet::Startup(message) => {
                let request = login_request(&message)?;
                if message.needs_negotiation() {
                    let options: Vec<&[u8]> = message.protocol_options().iter().map(|name| &**name).collect();
                    write::negotiate_protocol_version(outbox, message.minor(), &options);
                }
                let state = State::LookingUp { user: request.user.clone() };
                Ok(Advance::Stop(state, Step::LookUp(request)))
            }
        }
    }

    fn ask(&mut self, encryption: Asked) -> Result<(), OpeningError> {
        if self.asked.contains(&encryption) {
            return Err(OpeningError::EncryptionAskedTwice);
        }
        self.asked.push(encryption);
        Ok(())
    }

    /// One message of the client's proof.
    fn on_proof(state: State, inbox: &mut BytesMut, outbox: &mut BytesMut) -> Result<Advance, OpeningError> {
        let limit = match &state {
            State::ScramFirst { .. } | State::ScramProof { .. } => MAX_SASL_MESSAGE,
            _ => MAX_PASSWORD_MESSAGE,
        };
        let Some(frame) = take_frame(inbox, &[PASSWORD], limit)? else {
            return Ok(Advance::Wait(state));
        };
        let body = frame.get(HEADER..).unwrap_or_default();
        let next = match state {
            State::Cleartext { user, verifier, salt, iterations } => {
                let password = Secret::from(cstring(body)?);
                if password.is_empty() {
                    return Err(OpeningError::WrongPassword(user));
                }
                let step = Step::NeedsKeys { password: password.clone(), salt, iterations };
                return Ok(Advance::Stop(State::Checking { user, verifier, password }, step));
            }
            State::Token { user } => {
                let token = Secret::from(cstring(body)?);
                return Ok(Advance::Stop(State::Verifying { user }, Step::Token(token)));
            }
            State::Md5 { user, hash, salt } => {
                let answer = cstring(body)?;
                if !hash.is_some_and(|hash| hash.accepts(salt, answer)) {
                    return Err(OpeningError::WrongPassword(user));
                }
                State::Proven(Proof::Md5)
            }
            State::ScramFirst { user, start } => {
                let (mechanism, message) = sasl_initial_response(body)?;
                let (awaiting, answer) = start.on_client_first(mechanism, message)?;
                write::authentication_sasl_continue(outbox, &answer);
                State::ScramProof { user, awaiting }
            }
            State::ScramProof { user, awaiting } => match awaiting.on_client_final(body) {
                Ok((keys, answer)) => {
                    write::authentication_sasl_final(outbox, &answer);
                    State::Proven(Proof::Scram(keys))
                }
                Err(ScramError::WrongProof) => return Err(OpeningError::WrongPassword(user)),
                Err(error) => return Err(error.into()),
            },
            _ => return Err(OpeningError::OutOfTurn),
        };
        Ok(Advance::Next(next))
    }
}

/// What comes of one packet or message.
enum Advance {
    /// Go on in this state.
    Next(State),
    /// Be in this state and let the driver act.
    Stop(State, Step),
    /// Be in this state until there is more.
    Wait(State),
}

impl Advance {
    fn decide(encryption: Encryption) -> Self {
        Self::Stop(State::Deciding(encryption), Step::Encryption(encryption))
    }
}

/// Tells a client parameters of the server.
pub fn tell<'a>(outbox: &mut BytesMut, parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
    for (name, value) in parameters {
        write::parameter_status(outbox, name, value);
    }
}

/// The last words of an opening, in one piece: AuthenticationOk, the server's parameters, the client's cancel key
/// and ReadyForQuery. NegotiateProtocolVersion was said before, where it was due.
pub fn welcome<'a>(
    outbox: &mut BytesMut,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    key: &ClientKey,
) {
    let mut told = BytesMut::new();
    tell(&mut told, parameters);
    welcome_with(outbox, &told, key);
}

/// The same, with the parameters as [`tell`] has written them.
pub fn welcome_with(outbox: &mut BytesMut, told: &[u8], key: &ClientKey) {
    outbox.reserve(told.len() + LAST_WORDS + key.secret().len());
    write::authentication_ok(outbox);
    outbox.extend_from_slice(told);
    write::backend_key_data(outbox, key.process_id(), key.secret());
    write::ready_for_query(outbox, b'I');
}

fn ask_md5(user: User, hash: Option<Md5Hash>, outbox: &mut BytesMut) -> Result<State, OpeningError> {
    let salt = random_md5_salt()?;
    write::authentication_md5(outbox, salt);
    Ok(State::Md5 { user, hash, salt })
}

fn login_request(message: &StartupMessage) -> Result<LoginRequest, OpeningError> {
    let user = message.user().ok_or(OpeningError::MissingUser)?;
    let mut parameters = message.options().map_or(Ok(Vec::new()), startup::parse_options)?;
    // Settings may come to be sent in a startup packet of ours, where these names would say who logs in, and where.
    if let Some((name, _)) = parameters.iter().find(|(name, _)| is_about_login(name)) {
        return Err(OptionsError::NotASetting(name.clone()).into());
    }
    parameters.extend(message.parameters().iter().filter(|(name, _)| !is_about_login(name)).cloned());
    if parameters.len() > MAX_SETTINGS {
        return Err(StartupError::TooManySettings.into());
    }
    Ok(LoginRequest {
        user: user.into(),
        database: message.database().unwrap_or(user).into(),
        parameters,
        minor: message.minor(),
        replication: message.replication()?,
        protocol_options: message.protocol_options().to_vec(),
    })
}

fn is_about_login(name: &[u8]) -> bool {
    matches!(name, b"database" | b"options" | b"replication" | b"user")
}

/// A PasswordMessage: one C string and nothing else.
fn cstring(body: &[u8]) -> Result<&[u8], OpeningError> {
    body.strip_suffix(b"\0").filter(|text| !text.contains(&0)).ok_or(BAD_PASSWORD_MESSAGE)
}

/// A SASLInitialResponse: the mechanism, and a message of a stated length. PostgreSQL also takes one without a
/// message and then asks for it; no client we know leaves it out.
fn sasl_initial_response(body: &[u8]) -> Result<(&[u8], &[u8]), OpeningError> {
    let mut parts = body.splitn(2, |byte| *byte == 0);
    let mechanism = parts.next().unwrap_or_default();
    let (length, message) =
        parts.next().and_then(|rest| rest.split_first_chunk()).ok_or(BAD_PASSWORD_MESSAGE)?;
    if usize::try_from(i32::from_be_bytes(*length)) != Ok(message.len()) {
        return Err(BAD_PASSWORD_MESSAGE);
    }
    Ok((mechanism, message))
}

const BAD_PASSWORD_MESSAGE: OpeningError = OpeningError::Malformed(Malformed::Body { tag: PASSWORD });

/// Why a client does not get in. `Display` is what it may be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpeningError {
    /// The startup packet's `options` cannot be honoured.
    BadOptions(OptionsError),
    /// A TLS handshake where there is no TLS.
    DirectTlsUnavailable,
    /// Bytes before the TLS handshake that an attacker may have put there.
    EarlyBytes,
    /// A second SSLRequest or GSSENCRequest, or one inside TLS.
    EncryptionAskedTwice,
    /// A message that cannot be read.
    Malformed(Malformed),
    /// A startup packet without a user.
    MissingUser,
    /// No certificate where one is the proof.
    NoCertificate,
    /// A connection that is not encrypted, where only others are admitted.
    NoEncryption {
        /// Where the client comes from.
        host: Box<str>,
        /// Who it says it is.
        user: User,
        /// What it wants.
        database: Database,
    },
    /// The operating system has no random bytes for us.
    NoRandomness,
    /// No rule lets it in.
    NoRule(Box<Visitor>),
    /// The driver called what this state is not for: a fault of ours.
    OutOfTurn,
    /// Who runs the client, as the system knows it, may not be this user.
    PeerFailed(User),
    /// A rule turns it away.
    Rejected(Box<Visitor>),
    /// A SCRAM message that cannot be accepted, for a reason other than the password.
    Scram(ScramError),
    /// A first packet that cannot be accepted.
    Startup(StartupError),
    /// Another message where a proof was asked for.
    Unexpected(u8),
    /// A certificate that is good, and not this user's.
    WrongCertificate(User),
    /// The proof is wrong, or there is no such user.
    WrongPassword(User),
}

impl OpeningError {
    /// The SQLSTATE PostgreSQL uses.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::BadOptions(error) => error.sqlstate(),
            Self::DirectTlsUnavailable => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::EarlyBytes | Self::EncryptionAskedTwice | Self::Malformed(_) | Self::Unexpected(_) => {
                sqlstate::PROTOCOL_VIOLATION
            }
            Self::MissingUser
            | Self::NoCertificate
            | Self::NoEncryption { .. }
            | Self::NoRule(_)
            | Self::PeerFailed(_)
            | Self::Rejected(_)
            | Self::WrongCertificate(_) => sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::NoRandomness | Self::OutOfTurn => "XX000",
            Self::Scram(error) => error.sqlstate(),
            Self::Startup(error) => error.sqlstate(),
            Self::WrongPassword(_) => sqlstate::INVALID_PASSWORD,
        }
    }

    /// What the client could do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::BadOptions(OptionsError::NotASetting(_)) => None,
            Self::BadOptions(_) => Some("Only -c name=value, -cname=value and --name=value are understood."),
            Self::DirectTlsUnavailable => Some("Connect with sslnegotiation=postgres, or sslmode=disable."),
            Self::NoCertificate => Some("Connect in TLS, with sslcert and sslkey."),
            Self::NoEncryption { .. } => {
                Some("Connect with sslmode=require, or sslmode=verify-full and sslrootcert.")
            }
            Self::NoRule(_) | Self::Rejected(_) => {
                Some("listen.rules of the pooler decides who may come in from where.")
            }
            Self::PeerFailed(_) => Some(
                "The system's user that runs the client must be of that name, or in the map of the rule.",
            ),
            Self::Startup(StartupError::BadReplication) => {
                Some("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
            }
            _ => None,
        }
    }
}

impl fmt::Display for OpeningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadOptions(error) => error.fmt(f),
            Self::DirectTlsUnavailable => f.write_str("TLS is not available here"),
            Self::EarlyBytes => f.write_str("received unencrypted data after SSL request"),
            Self::EncryptionAskedTwice => f.write_str("encryption was asked for twice"),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::MissingUser => f.write_str("no PostgreSQL user name specified in startup packet"),
            Self::NoCertificate => f.write_str("connection requires a valid client certificate"),
            Self::NoEncryption { host, user, database } => write!(
                f,
                "TLS is required for host \"{host}\", user \"{user}\", database \"{database}\"; this connection has no encryption"
            ),
            Self::NoRandomness => NoRandomness.fmt(f),
            Self::NoRule(visitor) => {
                let from = if visitor.database.is_some() { "" } else { "replication connection from " };
                write!(f, "no pg_hba.conf entry for {from}")?;
                visitor.describe(f)
            }
            Self::PeerFailed(user) => write!(f, "Peer authentication failed for user \"{user}\""),
            Self::Rejected(visitor) => {
                let what = if visitor.database.is_some() { "connection" } else { "replication connection" };
                write!(f, "pg_hba.conf rejects {what} for ")?;
                visitor.describe(f)
            }
            Self::OutOfTurn => f.write_str("internal error: the opening was driven out of turn"),
            Self::Scram(error) => error.fmt(f),
            Self::Startup(error) => error.fmt(f),
            Self::Unexpected(tag) => {
                write!(f, "expected password response, got message type {:?}", char::from(*tag))
            }
            Self::WrongCertificate(user) => {
                write!(f, "certificate authentication failed for user \"{user}\"")
            }
            Self::WrongPassword(user) => write!(f, "password authentication failed for user \"{user}\""),
        }
    }
}

impl std::error::Error for OpeningError {}

impl From<NoRandomness> for OpeningError {
    fn from(NoRandomness: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

impl From<OptionsError> for OpeningError {
    fn from(error: OptionsError) -> Self {
        Self::BadOptions(error)
    }
}

impl From<ScramError> for OpeningError {
    fn from(error: ScramError) -> Self {
        Self::Scram(error)
    }
}

impl From<StartupError> for OpeningError {
    fn from(error: StartupError) -> Self {
        Self::Startup(error)
    }
}

impl From<Untaken> for OpeningError {
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

    fn opening(tls: Tls) -> Opening {
        Opening::new(Settings { salts: Salts::from_key([7; 32]), tls })
    }

    fn startup(parameters: &[(&str, &str)]) -> BytesMut {
        let mut bytes = BytesMut::new();
        let parameters = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        write::startup_message(&mut bytes, 0, parameters);
        bytes
    }

    fn request(parameters: &[(&str, &str)]) -> Result<LoginRequest, OpeningError> {
        match opening(Tls::Unavailable).on_input(&mut startup(parameters), &mut BytesMut::new())? {
            Step::LookUp(request) => Ok(request),
            step => panic!("{step:?}"),
        }
    }

    /// Gives the bytes in pieces of these sizes; answers as a driver would. What happened, as text, and what was said.
    fn driven(method: Method, verifier: Option<&str>, bytes: &[u8], sizes: &[usize]) -> (String, BytesMut) {
        let verifier = || verifier.map(|text| Verifier::from_secret(&Secret::from(text)).unwrap());
        let (mut opening, mut inbox, mut outbox) =
            (opening(Tls::Unavailable), BytesMut::new(), BytesMut::new());
        let mut happened = String::new();
        let mut rest = bytes;
        let mut sizes = sizes.iter().cycle();
        loop {
            let step = match opening.on_input(&mut inbox, &mut outbox) {
                Ok(step) => step,
                Err(error) => return (happened + &format!("{error:?}"), outbox),
            };
            happened += &match &step {
                Step::NeedMore | Step::NeedsKeys { .. } => String::new(),
                step => format!("{step:?};"),
            };
            match step {
                Step::NeedMore if rest.is_empty() => {
                    return (happened + &format!("left {}", inbox.len()), outbox);
                }
                Step::NeedMore => {
                    let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                    inbox.extend_from_slice(piece);
                    rest = after;
                }
                Step::LookUp(_) => opening.on_verifier(method, verifier(), &mut outbox).unwrap(),
                Step::NeedsKeys { password, salt, iterations } => {
                    let keys = ScramKeys::derive(password.expose(), &salt, iterations);
                    if let Err(error) = opening.with_keys(&keys) {
                        return (happened + &format!("{error:?}"), outbox);
                    }
                }
                Step::Cancel(_) | Step::Proven(_) | Step::Encryption(_) | Step::Token(_) => {
                    return (happened + &format!("left {}", inbox.len() + rest.len()), outbox);
                }
            }
        }
    }

    #[test]
    fn a_request_has_what_the_packet_and_its_options_say() {
        let asked = request(&[
            ("user", "ann"),
            ("application_name", "psql"),
            ("options", r"-c search_path=a,\ b --work-mem=1MB"),
            ("client_encoding", "UTF8"),
        ])
        .unwrap();

        let expected = [
            ("search_path", "a, b"),
            ("work_mem", "1MB"),
            ("application_name", "psql"),
            ("client_encoding", "UTF8"),
        ];
        let expected = expected.map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()));
        assert_eq!(asked.parameters, expected);
        assert_eq!((asked.user, asked.database), (User::from("ann"), Database::from("ann")));
        assert_eq!((asked.minor, asked.replication), (0, Replication::None));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_postgresqls_codes() {
        let table: [(&[(&str, &str)], &str); 8] = [
            (&[("user", "ann"), ("options", "-c user=postgres")], "42704"),
            (&[("user", "ann"), ("options", "-c jit=off --database=other")], "42704"),
            (&[("user", "ann"), ("options", "-creplication=true")], "42704"),
            (&[("user", "ann"), ("options", "-c options=-d1")], "42704"),
            (&[("database", "x")], "28000"),
            (&[("user", "")], "28000"),
            (&[("user", "ann"), ("options", "-d 1")], "42601"),
            (&[("user", "ann"), ("replication", "perhaps")], "22023"),
        ];
        for (parameters, code) in table {
            assert_eq!(request(parameters).unwrap_err().sqlstate(), code, "{parameters:?}");
        }
    }

    #[test]
    fn no_stranger_has_settings_without_end_kept() {
        let names: Vec<_> = (0..=MAX_SETTINGS).map(|number| format!("s{number}")).collect();
        let packet = |count: usize| {
            let settings = names.iter().take(count).map(|name| (name.as_str(), "1"));
            request(&[("user", "ann")].into_iter().chain(settings).collect::<Vec<_>>())
        };
        let options = |count: usize| request(&[("user", "ann"), ("options", &"--a=1 ".repeat(count))]);

        for asked in [packet(MAX_SETTINGS), options(MAX_SETTINGS)] {
            assert_eq!(asked.unwrap().parameters.len(), MAX_SETTINGS);
        }
        for refused in [packet(MAX_SETTINGS + 1), options(MAX_SETTINGS + 1)] {
            assert_eq!(refused.unwrap_err().sqlstate(), "54000");
        }
    }

    #[test]
    fn each_encryption_is_declined_once() {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(b"\0\0\0\x08\x04\xd2\x16\x30");
        write::ssl_request(&mut bytes);
        bytes.extend_from_slice(&startup(&[("user", "ann")]));
        let (happened, said) = driven(Method::Trust, None, &bytes, &[1]);
        assert!(happened.ends_with("Proven(Trust);left 0"), "{happened}");
        assert_eq!(said, b"NN"[..]);

        let mut twice = BytesMut::new();
        write::ssl_request(&mut twice);
        write::ssl_request(&mut twice);
        assert_eq!(driven(Method::Trust, None, &twice, &[3]).0, "EncryptionAskedTwice");
    }

    #[test]
    fn bytes_before_the_handshake_are_refused_when_tls_is_accepted() {
        for (early, is_good) in [(&b""[..], true), (b"x", false)] {
            let (mut opening, mut inbox, mut outbox) =
                (opening(Tls::Available), BytesMut::new(), BytesMut::new());
            write::ssl_request(&mut inbox);
            inbox.extend_from_slice(early);

            let step = opening.on_input(&mut inbox, &mut outbox);
            assert!(matches!(step, Ok(Step::Encryption(Encryption::Tls))));
            let accepted = opening.accept_encryption(&inbox, &mut outbox);

            assert_eq!(accepted, if is_good { Ok(()) } else { Err(OpeningError::EarlyBytes) });
            assert_eq!(outbox, if is_good { b"S"[..].to_vec() } else { vec![] });
        }
    }

    #[test]
    fn inside_tls_the_opening_goes_on_and_binds_to_it() {
        let (mut opening, mut inbox, mut outbox) =
            (opening(Tls::Available), BytesMut::new(), BytesMut::new());
        inbox.extend_from_slice(&[TLS_HANDSHAKE, 3, 1]);

        assert!(matches!(
            opening.on_input(&mut inbox, &mut outbox),
            Ok(Step::Encryption(Encryption::DirectTls))
        ));
        assert_eq!(inbox.len(), 3);
        opening.accept_encryption(&inbox, &mut outbox).unwrap();
        inbox = startup(&[("user", "ann")]);
        assert!(matches!(opening.on_input(&mut inbox, &mut outbox), Ok(Step::NeedMore)));
        opening.encrypted(ChannelBinding::TlsServerEndPoint([1; 32].into())).unwrap();
        assert!(matches!(opening.on_input(&mut inbox, &mut outbox), Ok(Step::LookUp(_))));
        opening.on_verifier(Method::ScramSha256, None, &mut outbox).unwrap();

        assert!(outbox.windows(18).any(|part| part == b"SCRAM-SHA-256-PLUS"));
    }

    #[test]
    fn what_is_not_the_protocol_is_refused_by_its_first_bytes() {
        let refused = |bytes: &[u8]| driven(Method::Trust, None, bytes, &[1]).0;

        assert_eq!(refused(b"\x16"), "DirectTlsUnavailable");
        assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n"), "Startup(BadLength(1195725856))");
        assert_eq!(refused(b"\0\0\0\x09\0\x02\0\0\0"), "Startup(UnsupportedVersion { major: 2, minor: 0 })");
    }

    #[test]
    fn a_newer_client_is_told_what_we_speak_before_anything_else() {
        let mut bytes = BytesMut::new();
        let parameters: [(&[u8], &[u8]); 2] = [(b"user", b"ann"), (b"_pq_.wish", b"1")];
        write::startup_message(&mut bytes, 9999, parameters);

        let (_, said) = driven(Method::Password, None, &bytes, &[9]);

        let mut expected = BytesMut::new();
        write::negotiate_protocol_version(&mut expected, 2, &[b"_pq_.wish"]);
        write::authentication_cleartext(&mut expected);
        assert_eq!(said, expected);
    }

    #[test]
    fn a_cancel_is_an_outcome_of_its_own() {
        let mut bytes = BytesMut::new();
        write::cancel_request(&mut bytes, 5, b"abcd");

        assert_eq!(driven(Method::Trust, None, &bytes, &[1]).0, "Cancel(ClientKey(5, …));left 0");
    }

    #[test]
    fn a_password_in_the_clear_is_checked_and_kept_for_the_server() {
        let said = |password: &[u8]| {
            let mut bytes = startup(&[("user", "ann")]);
            write::password_message(&mut bytes, password);
            bytes
        };
        let end = |verifier, password| {
            driven(Method::Password, verifier, &said(password), &[7]).0.rsplit(';').next().unwrap().to_owned()
        };

        assert_eq!(end(Some("pencil"), b"pencil"), "left 0");
        for (verifier, password) in
            [(Some("pencil"), &b"pencils"[..]), (None, b"pencil"), (Some("pencil"), b"")]
        {
            assert_eq!(end(verifier, password), "WrongPassword(\"ann\")");
        }
    }

    #[test]
    fn a_token_is_judged_by_the_driver() {
        for is_accepted in [true, false] {
            let (mut opening, mut outbox) = (opening(Tls::Unavailable), BytesMut::new());
            let mut inbox = startup(&[("user", "ann")]);
            assert!(matches!(opening.on_input(&mut inbox, &mut outbox), Ok(Step::LookUp(_))));
            assert_eq!(opening.on_token(true), Err(OpeningError::OutOfTurn));

            let mut opening = Opening { state: State::LookingUp { user: User::from("ann") }, ..opening };
            opening.ask_token(&mut outbox).unwrap();
            write::password_message(&mut inbox, b"x.y.z");
            let step = opening.on_input(&mut inbox, &mut outbox).unwrap();
            assert!(matches!(&step, Step::Token(token) if token.expose() == b"x.y.z"));
            assert!(!format!("{step:?}").contains("x.y"));
            assert!(matches!(opening.on_input(&mut inbox, &mut outbox), Ok(Step::NeedMore)));
            let judged = opening.on_token(is_accepted);

            match is_accepted {
                true => assert!(matches!(
                    opening.on_input(&mut inbox, &mut outbox),
                    Ok(Step::Proven(Proof::Token))
                )),
                false => assert_eq!(judged, Err(OpeningError::WrongPassword(User::from("ann")))),
            }
        }
    }

    #[test]
    fn a_huge_password_is_refused_from_its_header() {
        let mut bytes = startup(&[("user", "ann")]);
        bytes.extend_from_slice(b"p\0\x01\0\0");

        assert!(
            driven(Method::Password, None, &bytes, &[64])
                .0
                .ends_with("Malformed(TooLong { tag: 112, len: 65537, limit: 65536 })")
        );
        for (header, outcome) in [
            (b"p\0\0\x04\x00", "left 5"),
            (b"p\0\0\x04\x01", "Malformed(TooLong { tag: 112, len: 1026, limit: 1025 })"),
        ] {
            let mut bytes = startup(&[("user", "ann")]);
            bytes.extend_from_slice(header);
            assert!(driven(Method::ScramSha256, None, &bytes, &[64]).0.ends_with(outcome), "{outcome}");
        }
        let mut bytes = startup(&[("user", "ann")]);
        bytes.extend_from_slice(b"Q");
        assert!(driven(Method::Password, None, &bytes, &[64]).0.ends_with("Unexpected(81)"));
    }

    #[test]
    fn calls_out_of_turn_change_nothing() {
        let (mut opening, mut outbox) = (opening(Tls::Available), BytesMut::new());

        assert_eq!(opening.accept_encryption(&BytesMut::new(), &mut outbox), Err(OpeningError::OutOfTurn));
        assert_eq!(opening.decline_encryption(&mut outbox), Err(OpeningError::OutOfTurn));
        assert_eq!(opening.encrypted(ChannelBinding::Unavailable), Err(OpeningError::OutOfTurn));
        assert_eq!(opening.on_verifier(Method::Trust, None, &mut outbox), Err(OpeningError::OutOfTurn));
        assert!(outbox.is_empty());
        let mut inbox = startup(&[("user", "ann")]);
        assert!(matches!(opening.on_input(&mut inbox, &mut outbox), Ok(Step::LookUp(_))));
    }

    #[test]
    fn a_welcome_is_one_piece() {
        let mut outbox = BytesMut::new();
        let parameters: [(&[u8], &[u8]); 1] = [(b"TimeZone", b"UTC")];

        welcome(&mut outbox, parameters, &ClientKey::new(5, b"abcd"));

        let expected = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x11TimeZone\0UTC\0K\0\0\0\x0c\0\0\0\x05abcdZ\0\0\0\x05I";
        assert_eq!(outbox, expected[..]);
    }

    /// What a client might say, good and bad mixed.
    fn talk() -> impl Strategy<Value = Vec<u8>> {
        let mut ssl = BytesMut::new();
        write::ssl_request(&mut ssl);
        let mut password = BytesMut::new();
        write::password_message(&mut password, b"pencil");
        let mut first = BytesMut::new();
        write::sasl_initial_response(&mut first, b"SCRAM-SHA-256", b"n,,n=,r=abc");
        let piece = prop_oneof![
            Just(ssl.to_vec()),
            Just(startup(&[("user", "ann"), ("options", "-c a=b")]).to_vec()),
            Just(password.to_vec()),
            Just(first.to_vec()),
            prop::collection::vec(any::<u8>(), 0..12),
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(length, body)| { [&[0, 0, 0, length, 0, 3, 0, 0], &body[..]].concat() }),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| {
                let length = u8::try_from(body.len() + 4).unwrap();
                [&[b'p', 0, 0, 0, length], &body[..]].concat()
            }),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter_and_nothing_panics(
            bytes in talk(),
            sizes in prop::collection::vec(1..30_usize, 1..5),
            method in prop::sample::select(vec![Method::Md5, Method::Password, Method::ScramSha256, Method::Trust]),
        ) {
            let (whole, said) = driven(method, None, &bytes, &[bytes.len().max(1)]);
            let (pieces, also) = driven(method, None, &bytes, &sizes);

            // Salts and nonces are random: what is said is compared by length.
            prop_assert_eq!(whole, pieces);
            prop_assert_eq!(said.len(), also.len());
        }
    }
}
