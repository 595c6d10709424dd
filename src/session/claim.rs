//! How a client says who its user is.
//!
//! # Promises
//! - An [`Identity`] exists only for bytes that fit the configured pattern, so nothing else can reach a prelude.
//! - RESET goes back to what the startup packet said, as PostgreSQL's own RESET would.
//! - Where tokens say who the user is, nothing else does, and not for longer than they are valid.
//!
//! # Refuses
//! To print an identity: `Debug` shows only that there is one.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::session::settings::{IdentitySettings, Nth, Pattern, Scope};
use crate::session::violation::Refusal;

/// The longest identity, in bytes.
pub const MAX_IDENTITY: usize = 256;

/// The end user a transaction runs for.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity(Arc<[u8]>);

impl Identity {
    /// `value` as an identity, if it fits `pattern`.
    pub fn new(value: &[u8], pattern: &Pattern) -> Option<Self> {
        let printable = value.iter().all(|byte| (b' '..=b'~').contains(byte));
        let fits = match pattern {
            Pattern::Any => !value.is_empty(),
            Pattern::Integer => (1..=20).contains(&value.len()) && value.iter().all(u8::is_ascii_digit),
            Pattern::Uuid => is_uuid(value),
        };
        (printable && fits && value.len() <= MAX_IDENTITY).then(|| Self(value.into()))
    }

    /// The value that is injected.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// The canonical form only: 8-4-4-4-12 hexadecimal digits.
fn is_uuid(value: &[u8]) -> bool {
    value.len() == 36
        && value.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A value for each variable that has one, by their order in [`IdentitySettings::stated`].
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Identities(Option<Arc<[Option<Identity>]>>);

impl Identities {
    /// The value of one variable.
    pub fn value(&self, nth: Nth) -> Option<&Identity> {
        self.0.as_ref()?.get(nth.0)?.as_ref()
    }

    /// The same, one variable having another value.
    #[must_use]
    pub fn with(&self, nth: Nth, value: Option<Identity>) -> Self {
        let mut values = self.0.as_ref().map_or_else(Vec::new, |values| values.to_vec());
        values.resize(values.len().max(nth.0.saturating_add(1)), None);
        if let Some(place) = values.get_mut(nth.0) {
            *place = value;
        }
        // Who has said nothing is one value, not many.
        let len = values.iter().rposition(Option::is_some).map_or(0, |last| last.saturating_add(1));
        values.truncate(len);
        Self((len > 0).then(|| values.into()))
    }
}

impl Identities {
    /// Whether each value is one that its variable may have under these settings.
    fn fit(&self, settings: &IdentitySettings) -> bool {
        let fits = |(at, value): (usize, &Option<Identity>)| match (value, settings.pattern_of(Nth(at))) {
            (None, _) => true,
            (Some(identity), Some(pattern)) => Identity::new(identity.as_bytes(), pattern).is_some(),
            (Some(_), None) => false,
        };
        self.0.iter().flat_map(|values| values.iter().enumerate()).all(fits)
    }
}

impl From<Option<Identity>> for Identities {
    /// The main variable alone.
    fn from(main: Option<Identity>) -> Self {
        Self::default().with(Nth::MAIN, main)
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identities(…)")
    }
}

/// What a verified token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Who the user is.
    pub identities: Identities,
    /// When it ends, in seconds since 1970.
    pub until: NonZeroU64,
}

/// Who the user is, and how long that holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Stated {
    identities: Identities,
    until: Option<NonZeroU64>,
}

impl From<Grant> for Stated {
    fn from(grant: Grant) -> Self {
        Self { identities: grant.identities, until: Some(grant.until) }
    }
}

/// What one client has said about its user so far.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    startup: Stated,
    current: Stated,
}

impl Claim {
    /// A client whose startup packet (or login) said `identity`.
    pub fn at_startup(identities: Identities) -> Self {
        let startup = Stated { identities, until: None };
        Self { current: startup.clone(), startup }
    }

    /// A client that gave a token when it came.
    pub fn granted(grant: Grant) -> Self {
        let startup = Stated::from(grant);
        Self { current: startup.clone(), startup }
    }

    /// A token given later, in the place of any before.
    pub fn grant(&mut self, grant: Grant) {
        self.current = grant.into();
    }

    /// The token is taken back: nobody.
    pub fn forget(&mut self) {
        self.current = Stated::default();
    }

    /// When the identity ends, in seconds since 1970; `None` is never.
    pub fn until(&self) -> Option<NonZeroU64> {
        self.current.until
    }

    /// Who the next transaction runs for.
    pub fn current(&self) -> Option<&Identity> {
        self.value(Nth::MAIN)
    }

    /// What a variable is in the next transaction.
    pub fn value(&self, nth: Nth) -> Option<&Identity> {
        self.current.identities.value(nth)
    }

    /// Whether what was said so far fits these settings too.
    pub fn fits(&self, settings: &IdentitySettings) -> bool {
        self.startup.identities.fit(settings) && self.current.identities.fit(settings)
    }

    /// A SET of a variable. The empty value is nobody.
    ///
    /// # Errors
    /// SET is not a channel here, or the value does not fit the pattern.
    pub fn set(&mut self, nth: Nth, value: &[u8], settings: &IdentitySettings) -> Result<(), Refusal> {
        if !settings.from_set || settings.takes_tokens() {
            return Err(Refusal::IdentityChannel);
        }
        let pattern = settings.pattern_of(nth).ok_or(Refusal::IdentityUnclear)?;
        let value = match value {
            [] => None,
            _ => Some(Identity::new(value, pattern).ok_or(Refusal::IdentityPattern)?),
        };
        self.current.identities = self.current.identities.with(nth, value);
        Ok(())
    }

    /// A RESET of a variable: back to what the startup packet said.
    ///
    /// # Errors
    /// SET and RESET are not a channel here.
    pub fn reset(&mut self, nth: Nth, settings: &IdentitySettings) -> Result<(), Refusal> {
        if !settings.from_set || settings.takes_tokens() {
            return Err(Refusal::IdentityChannel);
        }
        let before = self.startup.identities.value(nth).cloned();
        self.current.identities = self.current.identities.with(nth, before);
        Ok(())
    }

    /// A RESET of all of them.
    pub fn reset_all(&mut self) {
        self.current = self.startup.clone();
    }

    /// Whether it is not what the startup packet said.
    pub fn is_changed(&self) -> bool {
        self.current != self.startup
    }

    /// A transaction has ended: under `scope = "transaction"` the claim ends with it.
    pub fn on_transaction_end(&mut self, scope: Scope) {
        if scope == Scope::Transaction {
            self.current = Stated::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::Variable;

    const A: &[u8] = b"0a1b2c3d-0000-4000-8000-00000000000a";

    #[test]
    fn only_what_fits_the_pattern_is_an_identity() {
        assert!(Identity::new(A, &Pattern::Uuid).is_some());
        for value in [
            &b""[..],
            b"0a1b2c3d000040008000000000000000000a",
            b"{0a1b2c3d-0000-4000-8000-0000000000}",
            b"0a1b2c3d-0000-4000-8000-00000000000g",
            b"' or true --",
        ] {
            assert!(Identity::new(value, &Pattern::Uuid).is_none());
        }
        assert!(Identity::new(b"18446744073709551615", &Pattern::Integer).is_some());
        assert!(Identity::new(b"-1", &Pattern::Integer).is_none());
        assert!(Identity::new(b"o'hara", &Pattern::Any).is_some());
        assert!(Identity::new(b"a\0b", &Pattern::Any).is_none());
        assert!(Identity::new(b"a\nb", &Pattern::Any).is_none());
        assert!(Identity::new("é".as_bytes(), &Pattern::Any).is_none());
        assert!(Identity::new(&[b'a'; 257], &Pattern::Any).is_none());
    }

    #[test]
    fn a_reset_goes_back_to_the_startup_packet() {
        let settings = IdentitySettings { pattern: Pattern::Any, ..IdentitySettings::default() };
        let mut claim = Claim::at_startup(Identity::new(b"a", &Pattern::Any).into());

        claim.set(Nth::MAIN, b"b", &settings).unwrap();
        assert_eq!(claim.current().unwrap().as_bytes(), b"b");
        claim.reset(Nth::MAIN, &settings).unwrap();

        assert_eq!(claim.current().unwrap().as_bytes(), b"a");
    }

    #[test]
    fn a_refused_value_changes_nothing() {
        let mut claim = Claim::at_startup(Identity::new(A, &Pattern::Uuid).into());

        assert_eq!(claim.set(Nth::MAIN, b"x", &IdentitySettings::default()), Err(Refusal::IdentityPattern));

        assert_eq!(claim.current().unwrap().as_bytes(), A);
    }

    #[test]
    fn a_claim_of_transaction_scope_is_used_once() {
        let mut claim = Claim::at_startup(Identity::new(A, &Pattern::Uuid).into());

        claim.on_transaction_end(Scope::Session);
        assert!(claim.current().is_some());
        claim.on_transaction_end(Scope::Transaction);

        assert!(claim.current().is_none());
    }

    #[test]
    fn each_variable_has_its_own_value_and_its_own_pattern() {
        let further = Variable { name: "app.tenant_id".into(), pattern: Pattern::Integer };
        let settings = IdentitySettings { variables: vec![further], ..IdentitySettings::default() };
        let mut claim = Claim::at_startup(Identity::new(A, &Pattern::Uuid).into());

        claim.set(Nth(1), b"7", &settings).unwrap();
        assert_eq!(claim.set(Nth(1), A, &settings), Err(Refusal::IdentityPattern));
        assert_eq!(claim.set(Nth(2), b"7", &settings), Err(Refusal::IdentityUnclear));
        claim.set(Nth::MAIN, b"", &settings).unwrap();

        assert!(claim.current().is_none());
        assert_eq!(claim.value(Nth(1)).unwrap().as_bytes(), b"7");
        claim.reset(Nth(1), &settings).unwrap();
        assert!(claim.value(Nth(1)).is_none());
        claim.reset_all();
        assert!(!claim.is_changed());
    }

    #[test]
    fn where_tokens_say_it_nothing_else_does() {
        let mut settings = IdentitySettings::default();
        settings.token.key = Some("a key".into());
        let grant = |until| Grant {
            identities: Identity::new(A, &Pattern::Uuid).into(),
            until: NonZeroU64::new(until).unwrap(),
        };
        let mut claim = Claim::granted(grant(10));

        assert_eq!(claim.set(Nth::MAIN, A, &settings), Err(Refusal::IdentityChannel));
        assert_eq!(claim.reset(Nth::MAIN, &settings), Err(Refusal::IdentityChannel));
        claim.grant(grant(20));
        assert_eq!(claim.until(), NonZeroU64::new(20));
        claim.reset_all();
        assert_eq!(claim.until(), NonZeroU64::new(10));
        claim.forget();

        assert!(claim.current().is_none() && claim.until().is_none());
    }

    #[test]
    fn an_identity_does_not_print_itself() {
        let identity = Identity::new(A, &Pattern::Uuid);
        assert_eq!(format!("{:?}", Claim::at_startup(identity.into())).matches("0a1b").count(), 0);
        assert_eq!(format!("{:?}", Identity::new(A, &Pattern::Uuid)), "Some(Identity(…))");
    }
}
