//! A client's way in, driven: who it is, which pool it belongs to, what it is told first.
//!
//! # Promises
//! - The deadline covers the first byte: a client that says nothing is gone when it is over.
//! - An unknown database is told as such only to those who are let in without proof; to others it is a wrong password.
//! - Where encryption is required, or a certificate, nobody is looked up before it is there. A cancel request needs
//!   neither, as in PostgreSQL: old clients send it plain.
//! - Startup settings are tried on a server before the client is let in, once for each set of them.
//! - What few logins need is boxed where it is waited for: all of it inline is eight kilobytes, moved with every login.
//!
//! # Refuses
//! To serve: what comes out is a [`Guest`], ready to speak.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use tokio::time::timeout;

use crate::auth::{ChannelBinding, Credential, Method, Secret, Verifier};
use crate::names::{ClientId, ClientKey, Database, PoolKey, Printable, User};
use crate::net::stream::Remote;
use crate::net::tls::{Acceptor, Certificate, Handshake, SslMode};
use crate::net::{Peer, Stream};
use crate::pool::{CheckoutError, Greeting, Member, Place};
use crate::proxy::admission::{Admission, Applicant, demanded};
use crate::proxy::cancel::{About, Entry};
use crate::proxy::catalog::Seat;
use crate::proxy::checkout::{NoLease, checkout};
use crate::proxy::console::{Role, Visitor};
use crate::proxy::counts::Login;
use crate::proxy::farewell::Denied;
use crate::proxy::relay::{relay_abandoned, tell_time};
use crate::proxy::{Edition, Proxy};
use crate::session::claim::Claim;
use crate::session::idle::MAX_TOKEN;
use crate::session::opening::{self, LoginRequest, Opening, OpeningError, Proof, Step, Tls};
use crate::session::violation::Report;
use crate::session::{
    ClientState, Grant, Identities, Identity, Nth, Outcome, Parameters, Rules, Subject, TokenFault, Values,
    is_belated,
};
use crate::telemetry::instruments::Tally;
use crate::token::Tokens;
use crate::wire::startup::Replication;

/// Servers that may be lost while a client's settings are tried.
const TRIES: u32 = 3;

const APPLICATION_NAME: &[u8] = b"application_name";

/// A client that has been let in.
pub(super) struct Guest {
    /// The configuration as it holds for it.
    pub(super) edition: Arc<Edition>,
    pub(super) peer: Peer,
    pub(super) state: ClientState,
    pub(super) entry: Entry,
    pub(super) member: Member,
    pub(super) user: User,
    pub(super) database: Database,
    /// What verifies its tokens.
    pub(super) tokens: Option<Arc<Tokens>>,
    /// Its places under the caps on clients.
    pub(super) permits: Vec<Place>,
}

/// How a client's way in ended.
pub(super) enum Arrival {
    /// It wanted somebody's query cancelled. It waits for its connection to be closed, and takes that for "done".
    Cancel(ClientKey, Option<Box<Peer>>),
    /// It went away, or took too long, or broke the protocol; it has been told what there was to tell.
    Lost(Login),
    /// It is not let in; it has been told why.
    Refused(Login, String),
    /// It wants to speak the replication protocol: one to one.
    Replication(Box<Pilgrim>),
    /// It is let in to the console.
    Visitor(Box<Visitor>),
    /// It is let in.
    Welcome(Box<Guest>),
}

/// A client of the replication protocol, authenticated.
pub(super) struct Pilgrim {
    pub(super) peer: Peer,
    pub(super) request: LoginRequest,
    pub(super) seat: Seat,
    pub(super) credential: Option<Credential>,
    pub(super) entry: Entry,
}

/// Who has proved what; boxed, for it passes through many hands.
struct Proven {
    request: LoginRequest,
    seat: Option<Seat>,
    credential: Option<Credential>,
    suffix: Option<Vec<u8>>,
    certificate: Option<Certificate>,
    /// What the user must know; `None`: there is no such user.
    verifier: Option<Verifier>,
    /// What the token proved that it gave for a password.
    grant: Option<Grant>,
}

/// What came of a client's first words.
enum Opened {
    /// It is who it says.
    Proven(Peer, Box<Proven>),
    /// Nothing, and who is still there to be told.
    Turned(Option<Peer>, Arrival),
}

/// Lets a client in, or not.
///
/// Not cancel safe: what has been read is lost with the peer.
pub(super) async fn receive(proxy: &Arc<Proxy>, peer: Peer, remote: Remote, id: ClientId) -> Arrival {
    let edition = proxy.edition();
    let limit = edition.settings.login_timeout;
    let (mut peer, proven) = match timeout(limit, open(proxy, &edition, peer)).await {
        Ok(Opened::Proven(peer, proven)) => (peer, proven),
        Ok(Opened::Turned(peer, Arrival::Cancel(key, _))) => {
            return Arrival::Cancel(key, peer.map(Box::new));
        }
        Ok(Opened::Turned(peer, arrival)) => {
            if let Some(peer) = peer {
                let _ = timeout(limit, peer.close()).await;
            }
            return arrival;
        }
        Err(_) => return Arrival::Lost(Login::TimedOut),
    };
    let (database, user) = (proven.request.database.clone(), proven.request.user.clone());
    match admit(proxy, &edition, &mut peer, (id, remote), proven).await {
        Ok(Admitted::Guest { state, entry, member, user, database, tokens, permits }) => {
            peer.give_up();
            Arrival::Welcome(Box::new(Guest {
                edition,
                peer,
                state,
                entry,
                member,
                user,
                database,
                tokens,
                permits,
            }))
        }
        Ok(Admitted::Visitor { user, role, entry, place }) => {
            Arrival::Visitor(Box::new(Visitor { id, user, role, peer, entry, place }))
        }
        Ok(Admitted::Pilgrim { request, seat, credential, entry }) => {
            Arrival::Replication(Box::new(Pilgrim { peer, request, seat, credential, entry }))
        }
        Err(None) => Arrival::Lost(Login::ClientGone),
        Err(Some(denied)) => {
            if matches!(&denied, Denied::Checkout(CheckoutError::Connect(error)) if error.is_of_credential())
            {
                Box::pin(edition.verifiers.doubt(&database, &user)).await;
            }
            denied.write("FATAL", &mut peer.buffers.outbox);
            let _ = timeout(limit, peer.close()).await;
            Arrival::Refused(denied.login(), format!("{database}/{user}: {denied}"))
        }
    }
}

/// From the first byte to the proof, inside TLS where that is asked for.
async fn open(proxy: &Proxy, edition: &Edition, mut peer: Peer) -> Opened {
    let acceptor = edition.tls.as_deref().filter(|_| matches!(peer.stream(), Stream::Tcp(_)));
    let tls = acceptor.map_or(Tls::Unavailable, |_| Tls::Available);
    let mut opening = Opening::new(opening::Settings { salts: proxy.salts.clone(), tls });
    let mut door = Door { proxy, edition, certificate: None };
    loop {
        match door.log_in(&mut peer, &mut opening).await {
            Ok(Some(mut proven)) => {
                proven.certificate = door.certificate;
                return Opened::Proven(peer, proven);
            }
            Ok(None) => {}
            Err(arrival) => return Opened::Turned(Some(peer), arrival),
        }
        match Box::pin(encrypt(acceptor, peer, &mut opening, &proxy.counts.handshakes)).await {
            Ok(encrypted) => (peer, door.certificate) = encrypted,
            Err(arrival) => return Opened::Turned(None, arrival),
        }
    }
}

/// Shakes hands, and tells the opening what it is bound to.
async fn encrypt(
    acceptor: Option<&Acceptor>,
    peer: Peer,
    opening: &mut Opening,
    handshakes: &Tally<Handshake>,
) -> Result<(Peer, Option<Certificate>), Arrival> {
    let gone = Arrival::Lost(Login::ClientGone);
    let Some(acceptor) = acceptor else { return Err(gone) };
    let (stream, buffers) = peer.into_parts();
    let accepted = acceptor.accept(stream, &buffers.inbox).await;
    let is_resumed = accepted.as_ref().map(|accepted| accepted.is_resumed);
    handshakes.count(is_resumed.map_or(Handshake::Failed, Handshake::done));
    let accepted = accepted.map_err(|error| Arrival::Refused(Login::TlsFailed, format!("TLS: {error}")))?;
    let binding = accepted.end_point.map_or(ChannelBinding::Unavailable, ChannelBinding::TlsServerEndPoint);
    opening.encrypted(binding).map_err(|_| gone)?;
    Ok((Peer::new(accepted.stream), accepted.certificate))
}

/// Where a client proves itself.
struct Door<'a> {
    proxy: &'a Proxy,
    edition: &'a Edition,
    /// What it has shown in the handshake.
    certificate: Option<Certificate>,
}

impl Door<'_> {
    /// From where the opening is to the proof; `None` if a handshake comes first.
    async fn log_in(&self, peer: &mut Peer, opening: &mut Opening) -> Result<Option<Box<Proven>>, Arrival> {
        let gone = || Arrival::Lost(Login::ClientGone);
        let mut found: Option<Box<Proven>> = None;
        loop {
            let buffers = &mut peer.buffers;
            let step = match opening.on_input(&mut buffers.inbox, &mut buffers.outbox) {
                Ok(step) => step,
                Err(error) => return Err(Box::pin(self.fail(peer, found.as_deref(), &error)).await),
            };
            match step {
                Step::Cancel(key) => return Err(Arrival::Cancel(key, None)),
                Step::Encryption(_) => {
                    let agreed = opening.accept_encryption(&buffers.inbox, &mut buffers.outbox);
                    agreed.map_err(|error| refuse(peer, &error))?;
                    peer.drain().await.map_err(|_| gone())?;
                    return Ok(None);
                }
                Step::LookUp(request) => found = Some(self.ask(peer, opening, request).await?),
                Step::NeedMore => {
                    peer.drain().await.map_err(|_| gone())?;
                    if !peer.fill().await.map_err(|_| gone())? {
                        return Err(gone());
                    }
                }
                Step::NeedsKeys { password, salt, iterations } => {
                    let keys = Box::pin(self.proxy.pools.hashing().keys(&password, &salt, iterations)).await;
                    if let Err(error) = opening.with_keys(&keys.ok_or_else(gone)?) {
                        return Err(Box::pin(self.fail(peer, found.as_deref(), &error)).await);
                    }
                }
                Step::Proven(proof) => {
                    let mut found = found.ok_or_else(gone)?;
                    found.credential = credential(&proof, found.verifier.take());
                    return Ok(Some(found));
                }
                Step::Token(token) => {
                    let found = found.as_mut().ok_or_else(gone)?;
                    found.grant = verdict(found, &token).await.ok();
                    opening.on_token(found.grant.is_some()).map_err(|error| refuse(peer, &error))?;
                }
            }
        }
    }

    /// Finds out who wants in, and asks for the proof that is due.
    async fn ask(
        &self,
        peer: &mut Peer,
        opening: &mut Opening,
        request: LoginRequest,
    ) -> Result<Box<Proven>, Arrival> {
        let edition = self.edition;
        check_encryption(edition, peer, &request).map_err(|error| refuse(peer, &error))?;
        let called = request.user.clone();
        let mut found = resolve(edition, request).await;
        let admission = self.admitted(peer, &called, &found.request).map_err(|error| refuse(peer, &error))?;
        found.verifier = look_up(edition, admission.method(), &found).await;
        if edition.verifiers.has_news() {
            self.proxy.prepare_listed();
        }
        prepare(self.proxy, admission.method(), &found).await;
        self.demand(peer, opening, admission, &found).map_err(|error| refuse(peer, &error))?;
        Ok(found)
    }

    /// How a client has to prove itself, by what the rules say of it.
    fn admitted(
        &self,
        peer: &Peer,
        called: &User,
        request: &LoginRequest,
    ) -> Result<Admission, OpeningError> {
        let LoginRequest { user, database, replication, .. } = request;
        let settings = &self.edition.settings;
        let names = self.certificate.as_ref().map(|it| it.names(settings.certificates.user_from));
        let (replication, certificate) = (*replication, names.as_deref());
        demanded(settings, peer, &Applicant { user, called, database, replication, certificate })
    }

    /// Asks for the proof: the certificate that was shown, a token, or what the method says. A token says who the user is, which
    /// no rule about connections does: it is asked for where a rule says `trust` or `peer` too.
    fn demand(
        &self,
        peer: &mut Peer,
        opening: &mut Opening,
        admission: Admission,
        found: &Proven,
    ) -> Result<(), OpeningError> {
        let standing = standing(self.edition, peer, self.certificate.as_ref(), &found.request.user);
        let outbox = &mut peer.buffers.outbox;
        match (admission.method(), standing) {
            _ if admission == Admission::Certified => opening.on_certificate(true),
            (_, Standing::Stranger) => opening.on_certificate(false),
            (Method::Cert, Standing::Named) => opening.on_certificate(true),
            _ if takes_token(found) => opening.ask_token(outbox),
            (method, _) => opening.on_verifier(method, found.verifier.clone(), outbox),
        }
    }

    /// Refuses; and if it is for a wrong password, what is known of the user may not be true any more.
    async fn fail(&self, peer: &mut Peer, found: Option<&Proven>, error: &OpeningError) -> Arrival {
        if let (OpeningError::WrongPassword(_), Some(Proven { request, .. })) = (error, found) {
            self.edition.verifiers.doubt(&request.database, &request.user).await;
        }
        refuse(peer, error)
    }
}

/// Has the SCRAM verifier of a plaintext secret made, if that is what the client will be checked against.
async fn prepare(proxy: &Proxy, method: Method, found: &Proven) {
    let (Method::ScramSha256, Some(Verifier::Plaintext(plain))) = (method, &found.verifier) else { return };
    let user = found.request.user.as_bytes();
    Box::pin(crate::proxy::prepare(user, plain, &proxy.salts, proxy.pools.hashing())).await;
}

/// What a client's certificate says of the user it wants to be.
enum Standing {
    /// It names the user.
    Named,
    /// There is none.
    None,
    /// It must name the user, and does not.
    Stranger,
}

fn standing(edition: &Edition, peer: &Peer, certificate: Option<&Certificate>, user: &User) -> Standing {
    let Some(certificate) = certificate else { return Standing::None };
    let users = &edition.settings.certificates;
    let mode = edition.tls.as_ref().map(|acceptor| acceptor.settings().mode);
    let must_name = edition.settings.asks_for(Method::Cert) || mode == Some(SslMode::VerifyFull);
    let names_user = users.admit(&certificate.names(users.user_from), user.as_bytes());
    match (names_user, must_name && peer.stream().is_encrypted()) {
        (true, _) => Standing::Named,
        (false, true) => Standing::Stranger,
        (false, false) => Standing::None,
    }
}

/// A unix socket needs no encryption: nobody is in between.
fn check_encryption(edition: &Edition, peer: &Peer, request: &LoginRequest) -> Result<(), OpeningError> {
    let Stream::Tcp(_) = peer.stream() else { return Ok(()) };
    let is_required = edition.tls.as_ref().is_some_and(|acceptor| acceptor.settings().is_required());
    if !is_required && !edition.catalog.requires_tls(&request.database) {
        return Ok(());
    }
    let host = match peer.stream().remote() {
        Ok(Remote::Tcp(address)) => address.ip().to_string(),
        _ => "gone".to_owned(),
    };
    let (user, database) = (request.user.clone(), request.database.clone());
    Err(OpeningError::NoEncryption { host: host.into(), user, database })
}

/// Whether this client proves itself with a token, where that is configured.
fn takes_token(found: &Proven) -> bool {
    found.seat.as_ref().is_some_and(|seat| seat.tokens.is_some() && seat.rules.identity.token.from_password)
}

/// What a token proves that was given for a password.
async fn verdict(found: &Proven, token: &Secret) -> Result<Grant, TokenFault> {
    let Proven { request, seat: Some(seat), verifier, .. } = found else {
        return Err(TokenFault::UnknownKey);
    };
    let verdict = match &seat.tokens {
        Some(tokens) if token.expose().len() <= MAX_TOKEN => Box::pin(tokens.verify(token)).await,
        Some(_) => Err(TokenFault::TooLong),
        None => Err(TokenFault::KeysUnavailable),
    };
    // Judged for a stranger too, or what that takes would tell who is none.
    let verdict = if verifier.is_some() { verdict } else { verdict.and(Err(TokenFault::UnknownKey)) };
    if let Err(fault) = &verdict {
        tracing::warn!(user = %request.user, database = %request.database, reason = fault.words(), "token refused");
    }
    verdict
}

fn refuse(peer: &mut Peer, error: &OpeningError) -> Arrival {
    let report = Report {
        severity: "FATAL",
        sqlstate: error.sqlstate(),
        message: error.to_string(),
        hint: error.hint(),
        routine: None,
    };
    report.write(&mut peer.buffers.outbox);
    let login = match error {
        OpeningError::NoCertificate
        | OpeningError::NoRule(_)
        | OpeningError::PeerFailed(_)
        | OpeningError::Rejected(_)
        | OpeningError::WrongCertificate(_)
        | OpeningError::WrongPassword(_) => Login::AuthFailed,
        OpeningError::NoEncryption { .. } => Login::NoEncryption,
        _ => Login::ProtocolViolation,
    };
    Arrival::Refused(login, Printable(error.to_string().as_bytes()).to_string())
}

/// Who it is that wants in: the name may have the identity behind it.
async fn resolve(edition: &Edition, mut request: LoginRequest) -> Box<Proven> {
    // In the console there is no seat: it is nobody's database, and a token or a suffix proves nothing there.
    let is_console = edition.settings.console.is_console(&request.database);
    let mut seat = edition.catalog.seat(&request.database, &request.user).filter(|_| !is_console);
    if request.replication == Replication::Physical && !is_console {
        seat = seat.or_else(|| edition.catalog.seat_of_any(&request.user));
    }
    let takes_suffix = seat.as_ref().is_some_and(|seat| seat.rules.identity.from_user_suffix);
    let mut suffix = None;
    if takes_suffix
        && let Some(dot) = request.user.as_bytes().iter().position(|byte| *byte == b'.')
        && Box::pin(edition.verifiers.find(&request.database, &request.user)).await.is_none()
    {
        let (name, rest) = request.user.as_bytes().split_at(dot);
        suffix = rest.get(1..).map(<[u8]>::to_vec);
        request.user = User::from(name);
        seat = edition.catalog.seat(&request.database, &request.user);
    }
    Box::new(Proven {
        request,
        seat,
        credential: None,
        suffix,
        certificate: None,
        verifier: None,
        grant: None,
    })
}

impl Proven {
    /// Whether there is something for this user where it wants to go.
    fn is_expected(&self, edition: &Edition) -> bool {
        let console = &edition.settings.console;
        match console.is_console(&self.request.database) {
            true => console.role(&self.request.user).is_some(),
            false => self.seat.is_some(),
        }
    }
}

/// What this user must know. Where there is no such database there is no such user either, for all anyone can tell.
async fn look_up(edition: &Edition, method: Method, found: &Proven) -> Option<Verifier> {
    let LoginRequest { user, database, .. } = &found.request;
    let verifier = match method {
        // Nobody is asked about who proves nothing; a listed password is what servers are told.
        Method::Cert => edition.verifiers.listed(user.as_bytes()),
        Method::Trust if !takes_token(found) => edition.verifiers.listed(user.as_bytes()),
        _ => Box::pin(edition.verifiers.find(database, user)).await,
    };
    verifier.filter(|_| found.is_expected(edition))
}

/// What servers of this user will take from us: the best that is known.
fn credential(proof: &Proof, verifier: Option<Verifier>) -> Option<Credential> {
    match verifier {
        Some(Verifier::Plaintext(plain)) => Some(Credential::Password(plain.password().clone())),
        Some(Verifier::Md5(hash)) => Some(proof.credential().unwrap_or(Credential::Md5(hash))),
        _ => proof.credential(),
    }
}

enum Admitted {
    Guest {
        state: ClientState,
        entry: Entry,
        member: Member,
        user: User,
        database: Database,
        tokens: Option<Arc<Tokens>>,
        permits: Vec<Place>,
    },
    Pilgrim {
        request: LoginRequest,
        seat: Seat,
        credential: Option<Credential>,
        entry: Entry,
    },
    Visitor {
        user: User,
        role: Role,
        entry: Entry,
        place: Option<Place>,
    },
}

/// From the proof to the welcome. `None`: the client is gone.
async fn admit(
    proxy: &Arc<Proxy>,
    edition: &Edition,
    peer: &mut Peer,
    (id, remote): (ClientId, Remote),
    proven: Box<Proven>,
) -> Result<Admitted, Option<Denied>> {
    let Proven { mut request, seat, credential, suffix, certificate, grant, .. } = *proven;
    if edition.settings.console.is_console(&request.database) {
        return Box::pin(visit(proxy, edition, peer, (id, remote), request)).await;
    }
    let unknown = || Denied::UnknownDatabase(request.database.to_string());
    let seat = seat.ok_or_else(unknown)?;
    if proxy.pools.is_disabled(&request.database) {
        return Err(Some(Denied::Disabled(request.database.to_string())));
    }
    let permits = places(proxy, &seat)?;
    let entry = proxy.clients.enter(id, request.cancel_secret_len()).map_err(|_| None)?;
    let identities = startup_identities(&seat.rules, &request, suffix.as_deref(), certificate.as_ref())?;
    let grant = startup_grant(&seat, &request, grant).await?;
    if request.replication != Replication::None {
        // The others go to the server as they are.
        request.parameters.retain(|(name, _)| seat.rules.identity.subject(name) != Some(Subject::Token));
        entry.handle.introduce(about(&request, peer, remote, Some(seat.key.clone())));
        return Ok(Admitted::Pilgrim { request, seat, credential, entry });
    }
    let tokens = seat.tokens.clone();
    let startup = startup_values(edition, &seat.rules, &request);
    let signature = signature(&seat, remote);
    let pool = proxy.pools.pool(&seat.key, || seat.recipe);
    if let Some(credential) = credential {
        pool.learn(credential);
    }
    let request = with_names_of(request, pool.key());
    entry.handle.introduce(about(&request, peer, remote, Some(pool.key().clone())));
    let member = pool.join();
    let statements = pool.statements();
    let told = Parameters::default();
    let mut state = ClientState::new(id, seat.rules, identities, seat.is_exempt, startup, told, statements);
    if let Some(grant) = grant {
        state.claim = Claim::granted(grant);
    }
    let greeting = pool.greeting(&state.startup);
    match &greeting {
        Some(greeting) => adopt(&mut state, greeting),
        None => Box::pin(try_settings(peer, &mut state, &entry, &member)).await?,
    }
    if let Some(signature) = signature {
        sign(&mut state, &signature);
    }
    let (outbox, key) = (&mut peer.buffers.outbox, &entry.handle.key);
    match &greeting {
        Some(greeting) => opening::welcome_with(outbox, &greeting.words, key),
        None => opening::welcome(outbox, state.told.iter(), key),
    }
    peer.drain().await.map_err(|_| None)?;
    let (user, database) = (request.user, request.database);
    Ok(Admitted::Guest { state, entry, member, user, database, tokens, permits })
}

/// Lets somebody in to the console: admins count against no limit.
async fn visit(
    proxy: &Arc<Proxy>,
    edition: &Edition,
    peer: &mut Peer,
    (id, remote): (ClientId, Remote),
    request: LoginRequest,
) -> Result<Admitted, Option<Denied>> {
    let role = edition.settings.console.role(&request.user);
    let role = role.ok_or_else(|| Denied::UnknownDatabase(request.database.to_string()))?;
    let place = match role {
        Role::Admin => None,
        Role::Reader => Some(proxy.places.take_now().ok_or(Denied::TooManyClients)?),
    };
    let entry = proxy.clients.enter(id, request.cancel_secret_len()).map_err(|_| None)?;
    entry.handle.introduce(about(&request, peer, remote, None));
    let version = edition.settings.console.version().rsplit(' ').next().unwrap_or_default();
    let version = format!("{version}/bouncer");
    let parameters: [(&[u8], &[u8]); 7] = [
        (b"server_version", version.as_bytes()),
        (b"client_encoding", b"UTF8"),
        (b"server_encoding", b"UTF8"),
        (b"DateStyle", b"ISO"),
        (b"TimeZone", b"GMT"),
        (b"standard_conforming_strings", b"on"),
        (b"is_superuser", b"on"),
    ];
    opening::welcome(&mut peer.buffers.outbox, parameters, &entry.handle.key);
    peer.drain().await.map_err(|_| None)?;
    Ok(Admitted::Visitor { user: request.user, role, entry, place })
}

/// The same names as its pool has, in the allocations that all clients of the pool share.
fn with_names_of(mut request: LoginRequest, key: &PoolKey) -> LoginRequest {
    request.database = key.database.clone();
    if request.user == key.user {
        request.user = key.user.clone();
    }
    request
}

/// Who this is, for those who look.
fn about(request: &LoginRequest, peer: &Peer, remote: Remote, pool: Option<PoolKey>) -> About {
    let stream = peer.stream();
    let name = request.parameters.iter().rev().find(|(name, _)| &**name == APPLICATION_NAME);
    About {
        user: request.user.clone(),
        database: request.database.clone(),
        pool,
        remote: match remote {
            Remote::Tcp(address) => Some(address),
            Remote::Unix => None,
        },
        local: stream.local(),
        is_encrypted: stream.is_encrypted(),
        since: SystemTime::now(),
        application_name: name.map(|(_, value)| (**value).into()).unwrap_or_default(),
        replication: request.replication,
    }
}

/// What is appended to the application name, if anything: where the client comes from.
fn signature(seat: &Seat, remote: Remote) -> Option<Signature> {
    let upstream = &seat.recipe.upstream;
    upstream.application_name_add_client.then(|| Signature {
        fallback: upstream.application_name.clone().unwrap_or_default(),
        remote: remote.to_string(),
    })
}

/// What makes a client's servers recognisable in `pg_stat_activity`.
struct Signature {
    /// The name of a client that states none.
    fallback: String,
    remote: String,
}

/// Appends where the client comes from to its application name, or to the configured one if it has none.
fn sign(state: &mut ClientState, signature: &Signature) {
    let own = state.startup.value(APPLICATION_NAME).unwrap_or(signature.fallback.as_bytes());
    let name = [own, b" - ", signature.remote.as_bytes()].concat();
    state.startup.set(APPLICATION_NAME, &name);
    state.wanted = state.startup.clone();
}

/// Places under every cap on clients.
fn places(proxy: &Proxy, seat: &Seat) -> Result<Vec<Place>, Denied> {
    let caps = std::iter::once(&proxy.places).chain(&seat.caps);
    caps.map(|cap| cap.take_now().ok_or(Denied::TooManyClients)).collect()
}

/// Settings a server has accepted before, and what it will report with them.
fn adopt(state: &mut ClientState, greeting: &Greeting) {
    state.welcome(greeting.told.clone());
    state.wanted = greeting.values.clone();
    state.startup = greeting.values.clone();
}

/// Tries the client's settings on a server, which also says what it reports.
async fn try_settings(
    peer: &mut Peer,
    state: &mut ClientState,
    entry: &Entry,
    member: &Member,
) -> Result<(), Option<Denied>> {
    let pool = member.pool();
    let handle = &entry.handle;
    let asked = state.startup.clone();
    let mut failures = 0;
    loop {
        let mut lease = checkout(pool, peer, handle, state).await.map_err(|none| match none {
            NoLease::Cancelled => Some(Denied::Cancelled),
            NoLease::Checkout(error) => Some(Denied::Checkout(error)),
            NoLease::Outdated => Some(Denied::Prelude),
            NoLease::ClientGone => None,
            NoLease::Ordered => Some(Denied::Drained),
        })?;
        let server = &mut *lease;
        let mut said = BytesMut::new();
        tell_time(state, &mut server.state);
        server.exchange.begin_trial(state, &mut said, &mut server.state, &mut server.peer.buffers.outbox);
        // What the server reports goes into the welcome, not before it.
        let limit = pool.settings().acquire_timeout;
        let outcome = timeout(limit, relay_abandoned(state, server)).await;
        handle.has_nothing();
        match outcome {
            Ok(Ok(Outcome::Settled(clean))) => {
                pool.accept(asked, state.startup.clone());
                state.welcome(server.state.reported.clone());
                lease.release(clean, Instant::now());
                return Ok(());
            }
            Ok(Ok(Outcome::Unwound(sqlstate, Some(clean)))) if is_belated(sqlstate) && failures < TRIES => {
                failures += 1;
                if !server.state.is_to_blame(state.id, sqlstate) {
                    lease.release(clean, Instant::now());
                }
            }
            Ok(Ok(Outcome::Unwound(_, Some(clean)))) => {
                let words = server.exchange.take_failure();
                lease.release(clean, Instant::now());
                return Err(Some(Denied::Settings(words)));
            }
            _ if failures < TRIES => failures += 1,
            _ => return Err(Some(Denied::Prelude)),
        }
    }
}

/// Who the startup packet says the user is, by the channels that are open.
fn startup_identities(
    rules: &Rules,
    request: &LoginRequest,
    suffix: Option<&[u8]>,
    certificate: Option<&Certificate>,
) -> Result<Identities, Denied> {
    let settings = &rules.identity;
    let login = settings.from_login_role.then(|| request.user.as_bytes());
    let named = settings.from_certificate.and_then(|kind| certificate?.names(kind).into_iter().next());
    let named = named.as_deref().map(str::as_bytes);
    let mut identities = Identities::default();
    for (at, (variable, pattern)) in settings.stated().enumerate() {
        let is_variable = |name: &[u8]| name.eq_ignore_ascii_case(variable.as_bytes());
        let parameters = request.parameters.iter().rev();
        let stated = parameters.filter(|(name, _)| is_variable(name)).map(|(_, value)| &**value).next();
        let stated = stated.filter(|value| !value.is_empty());
        if stated.is_some() && (!settings.from_startup || settings.takes_tokens()) {
            return Err(Denied::IdentityChannel);
        }
        let value = match Nth(at) {
            Nth::MAIN => suffix.or(stated).or(named).or(login),
            _ => stated,
        };
        if let Some(value) = value {
            let identity = Identity::new(value, pattern).ok_or(Denied::IdentityPattern)?;
            identities = identities.with(Nth(at), Some(identity));
        }
    }
    Ok(identities)
}

/// What the token in the startup packet proves; one that was given for the password is not replaced.
async fn startup_grant(
    seat: &Seat,
    request: &LoginRequest,
    given: Option<Grant>,
) -> Result<Option<Grant>, Denied> {
    let (settings, Some(tokens)) = (&seat.rules.identity, &seat.tokens) else { return Ok(None) };
    let is_token = |name: &[u8]| settings.subject(name) == Some(Subject::Token);
    let parameters = request.parameters.iter().rev();
    let stated = parameters.filter(|(name, _)| is_token(name)).map(|(_, value)| &**value).next();
    match stated.filter(|value| !value.is_empty()) {
        None => Ok(given),
        Some(_) if given.is_some() || !settings.from_startup => Err(Denied::IdentityChannel),
        Some(token) if token.len() > MAX_TOKEN => Err(Denied::Token(TokenFault::TooLong)),
        Some(token) => {
            let token = std::str::from_utf8(token).map_err(|_| Denied::Token(TokenFault::Malformed))?;
            let grant = Box::pin(tokens.verify(&Secret::from(token))).await;
            grant.map(Some).map_err(Denied::Token)
        }
    }
}

/// The settings a client's startup packet asks for, the identity and the ignored ones left out.
fn startup_values(edition: &Edition, rules: &Rules, request: &LoginRequest) -> Values {
    let is_ours = |name: &[u8]| rules.identity.subject(name).is_some();
    let ignored = &edition.settings.ignore_startup_parameters;
    let is_ignored =
        |name: &[u8]| ignored.iter().any(|ignored| name.eq_ignore_ascii_case(ignored.as_bytes()));
    let parameters = request.parameters.iter().map(|(name, value)| (&**name, &**value));
    parameters.filter(|(name, _)| !is_ours(name) && !is_ignored(name)).collect()
}
