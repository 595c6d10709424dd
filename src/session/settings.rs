//! What the operator decides about conversations: pooling mode, session state, statements, identity, and what proves one.
//!
//! # Refuses
//! To parse: `config` makes these from what was written.

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::{LoginKey, Secret};
use crate::names::CertificateName;

/// When a server may go home (PgBouncer's `pool_mode`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// When the client disconnects.
    Session,
    /// When the transaction is over.
    #[default]
    Transaction,
    /// After each statement; transaction blocks are refused.
    Statement,
}

/// What happens to a plain `SET`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetPolicy {
    /// The client keeps its server until it disconnects or resets.
    Pin,
    /// The statement is refused (0A000).
    Refuse,
    /// The setting follows the client to whichever server is next.
    #[default]
    Track,
}

/// What happens to session state that cannot follow a client: LISTEN, advisory locks, temporary tables,
/// cursors WITH HOLD, SQL-level PREPARE, `SET ROLE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StatePolicy {
    /// The client keeps its server until the state is gone.
    #[default]
    Pin,
    /// The statement is refused (0A000) where its text shows it; what slips through is swept and logged.
    Refuse,
}

/// When a server is cleaned of what a client may have left on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CleanPolicy {
    /// Before it serves another client than its last, in the same write as that client's first words.
    #[default]
    Always,
    /// When the server was asked, because a text might have changed the session, and something is there.
    WhenNeeded,
}

/// What a transaction without an identity gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Missing {
    /// 28000, without touching a server.
    Deny,
    /// The variable is set to `''`, which strict policies refuse and careful ones show nothing for.
    #[default]
    Empty,
}

/// How long a `SET` of the identity holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scope {
    /// Until the next SET or RESET.
    #[default]
    Session,
    /// For the next transaction only.
    Transaction,
}

/// How the identity is written into the prelude.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// `set_config($1, $2, false)` with bound values.
    #[default]
    Bound,
    /// `ident.login($1)` with a signed token, and the variable besides: the application's SQL cannot change who it is.
    Login,
    /// `SET variable = '...'`: cheaper, but the identity shows in `pg_stat_activity`.
    Literal,
}

/// Which values an identity may have. Always ASCII without control characters, at most 256 bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Pattern {
    /// Any such text.
    Any,
    /// Decimal digits, at most 20.
    Integer,
    /// 8-4-4-4-12 hexadecimal digits.
    #[default]
    Uuid,
}

/// A variable that is said to the server besides the main one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    /// Its name, by the rules of [`IdentitySettings::variable`].
    pub name: String,
    /// Which values it may have.
    pub pattern: Pattern,
}

/// Signed tokens (JWT) as the proof of an identity; how they are verified is [`crate::token`]'s.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenSettings {
    /// The variable by which a client gives its token; it never reaches a server.
    pub variable: String,
    /// A file of keys: a JWK set, one JWK or a PEM public key; read again when it changes.
    pub keys_file: Option<PathBuf>,
    /// Where a JWK set is fetched from.
    pub keys_url: Option<String>,
    /// Who may vouch for the host of that URL; the system's own certificates if absent.
    pub ca_file: Option<PathBuf>,
    /// A key, as it would be in the file.
    pub key: Option<String>,
    /// A secret for HS256.
    pub secret: Option<Secret>,
    /// A file that holds such a secret.
    pub secret_file: Option<PathBuf>,
    /// The age at which fetched keys are fetched again.
    pub refresh: Duration,
    /// Who must have issued a token; anybody with the key if absent.
    pub issuer: Option<String>,
    /// For whom a token must be: one of these; anybody if there are none.
    pub audience: Vec<String>,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Which claim gives which variable its value; none is `sub` for the main one.
    pub claims: Vec<(String, String)>,
    /// Whether a client proves itself with a token in place of its password.
    pub from_password: bool,
}

impl TokenSettings {
    /// Whether tokens, and nothing else, say who a client's user is: there is a key to verify them by.
    pub fn is_on(&self) -> bool {
        let files = [&self.keys_file, &self.secret_file].into_iter().any(Option::is_some);
        files || self.keys_url.is_some() || self.key.is_some() || self.secret.is_some()
    }
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            variable: "app.jwt".into(),
            keys_file: None,
            keys_url: None,
            ca_file: None,
            key: None,
            secret: None,
            secret_file: None,
            refresh: Duration::from_secs(600),
            issuer: None,
            audience: Vec::new(),
            leeway: Duration::from_secs(30),
            claims: Vec::new(),
            from_password: false,
        }
    }
}

/// `[identity]`, as it holds for one database and user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentitySettings {
    /// Whether anything is injected at all.
    pub enabled: bool,
    /// The variable that policies read; a valid two-part name such as `app.current_user_id`.
    pub variable: String,
    /// Further variables, said in the same prelude; claimed as the main one is.
    pub variables: Vec<Variable>,
    /// Variables of others whose servers these are too: said to be empty, so that nothing of theirs is left.
    pub others: Vec<String>,
    /// Whether a startup parameter or `options=-c` may state the identity.
    pub from_startup: bool,
    /// Whether SET, RESET and `set_config` may state it.
    pub from_set: bool,
    /// Whether the login role is the identity of those who state none.
    pub from_login_role: bool,
    /// Whether `user.<identity>` in the user name states it.
    pub from_user_suffix: bool,
    /// The name in the client's certificate that is the identity of those who state none, if any.
    pub from_certificate: Option<CertificateName>,
    /// What a transaction without one gets.
    pub missing: Missing,
    /// How long a SET holds.
    pub scope: Scope,
    /// Which values are accepted.
    pub pattern: Pattern,
    /// How it is written.
    pub form: Form,
    /// What signs the tokens of `form = "login"`.
    pub login_key: Option<LoginKey>,
    /// The file it is read from, if it is.
    pub login_key_file: Option<PathBuf>,
    /// Whether the prelude is three statements that the server has prepared by name: cheaper, but SQL can replace them.
    pub trusted_sql: bool,
    /// Roles that may go without an identity under `missing = "deny"` (migrations).
    pub exempt: Vec<String>,
    /// Whether every give-back runs the full clean, plans included.
    pub strict: bool,
    /// Signed tokens.
    pub token: TokenSettings,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            variable: "app.current_user_id".into(),
            variables: Vec::new(),
            others: Vec::new(),
            from_startup: true,
            from_set: true,
            from_login_role: false,
            from_user_suffix: false,
            from_certificate: None,
            missing: Missing::default(),
            scope: Scope::default(),
            pattern: Pattern::default(),
            form: Form::default(),
            login_key: None,
            login_key_file: None,
            trusted_sql: false,
            exempt: Vec::new(),
            strict: false,
            token: TokenSettings::default(),
        }
    }
}

impl IdentitySettings {
    /// What signs this client's tokens, where they are used.
    pub fn signing(&self) -> Option<&LoginKey> {
        self.login_key.as_ref().filter(|_| self.enabled && self.form == Form::Login)
    }

    /// The variables a client states, the main one first; none if the identity is off.
    pub fn stated(&self) -> impl Iterator<Item = (&str, &Pattern)> + Clone {
        let main = (self.variable.as_str(), &self.pattern);
        let further = self.variables.iter().map(|variable| (variable.name.as_str(), &variable.pattern));
        std::iter::once(main).chain(further).filter(|_| self.enabled)
    }

    /// Every variable that a prelude sets.
    pub fn said(&self) -> impl Iterator<Item = &str> + Clone {
        self.stated().map(|(name, _)| name).chain(self.others.iter().map(String::as_str))
    }

    /// What a command on this variable is about, if it is the identity; names of settings have no case.
    pub fn subject(&self, name: &[u8]) -> Option<Subject> {
        let is_same = |known: &str| known.as_bytes().eq_ignore_ascii_case(name);
        if self.takes_tokens() && is_same(&self.token.variable) {
            return Some(Subject::Token);
        }
        let at = self.stated().position(|(known, _)| is_same(known))?;
        Some(Subject::Variable(Nth(at)))
    }

    /// Whether tokens, and nothing else, say who a client's user is.
    pub fn takes_tokens(&self) -> bool {
        self.enabled && self.token.is_on()
    }

    /// Which values a stated variable may have.
    pub fn pattern_of(&self, nth: Nth) -> Option<&Pattern> {
        self.stated().nth(nth.0).map(|(_, pattern)| pattern)
    }
}

/// What a command on the identity is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The token, which states all variables at once.
    Token,
    /// One variable.
    Variable(Nth),
}

/// One of the stated variables, by its place among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nth(pub usize);

impl Nth {
    /// The main one, which says who the user is.
    pub const MAIN: Self = Self(0);
}

/// The rules of one client's conversation, fixed at its login from `[pool]`, its database and its user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// When servers go home.
    pub mode: Mode,
    /// What a plain SET does.
    pub set: SetPolicy,
    /// What other session state does.
    pub state: StatePolicy,
    /// When a server is cleaned.
    pub clean: CleanPolicy,
    /// Named statements kept on each server; 0 leaves them to the client (and pins it).
    pub server_statements: usize,
    /// Named statements one client may have.
    pub client_statements: usize,
    /// Bytes of statement text one client may hold.
    pub client_statement_bytes: usize,
    /// Bytes of the first unit kept until the prelude is proven; also the longest text that is read for session state.
    pub retained: usize,
    /// Longest a query may run.
    pub query_timeout: Option<Duration>,
    /// Longest a transaction may be open.
    pub transaction_timeout: Option<Duration>,
    /// Longest a client may think inside a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// Of so many give-backs of a server one is checked: whether it really has what is believed.
    pub canary: Option<u64>,
    /// Transactions slower than this are logged.
    pub slow_transaction: Option<Duration>,
    /// The identity.
    pub identity: IdentitySettings,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            set: SetPolicy::default(),
            state: StatePolicy::default(),
            clean: CleanPolicy::default(),
            server_statements: 200,
            client_statements: 5_000,
            client_statement_bytes: 8 << 20,
            retained: 64 << 10,
            query_timeout: None,
            transaction_timeout: None,
            idle_transaction_timeout: None,
            canary: Some(1_000),
            slow_transaction: Some(Duration::from_secs(1)),
            identity: IdentitySettings::default(),
        }
    }
}
