//! How a client says who its user is.
//!
//! # Promises
//! - An [`Identity`] exists only for bytes that fit the configured pattern, so nothing else can reach a prelude.
//! - RESET goes back to what the startup packet said, as PostgreSQL's own RESET would.
//!
//! # Refuses
//! To print an identity: `Debug` shows only that there is one.

use std::fmt;
use std::sync::Arc;

use crate::session::settings::{IdentitySettings, Pattern, Scope};
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

/// What one client has said about its user so far.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    startup: Option<Identity>,
    current: Option<Identity>,
}

impl Claim {
    /// A client whose startup packet (or login) said `identity`.
    pub fn at_startup(identity: Option<Identity>) -> Self {
        Self { current: identity.clone(), startup: identity }
    }

    /// Who the next transaction runs for.
    pub fn current(&self) -> Option<&Identity> {
        self.current.as_ref()
    }

    /// A SET of the variable. The empty value is nobody.
    ///
    /// # Errors
    /// SET is not a channel here, or the value does not fit the pattern.
    pub fn set(&mut self, value: &[u8], settings: &IdentitySettings) -> Result<(), Refusal> {
        if !settings.from_set {
            return Err(Refusal::IdentityChannel);
        }
        self.current = match value {
            [] => None,
            _ => Some(Identity::new(value, &settings.pattern).ok_or(Refusal::IdentityPattern)?),
        };
        Ok(())
    }

    /// A RESET: back to what the startup packet said.
    pub fn reset(&mut self) {
        self.current = self.startup.clone();
    }

    /// Whether it is not what the startup packet said.
    pub fn is_changed(&self) -> bool {
        self.current != self.startup
    }

    /// A transaction has ended: under `scope = "transaction"` the claim ends with it.
    pub fn on_transaction_end(&mut self, scope: Scope) {
        if scope == Scope::Transaction {
            self.current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut claim = Claim::at_startup(Identity::new(b"a", &Pattern::Any));

        claim.set(b"b", &settings).unwrap();
        assert_eq!(claim.current().unwrap().as_bytes(), b"b");
        claim.reset();

        assert_eq!(claim.current().unwrap().as_bytes(), b"a");
    }

    #[test]
    fn a_refused_value_changes_nothing() {
        let mut claim = Claim::at_startup(Identity::new(A, &Pattern::Uuid));

        assert_eq!(claim.set(b"x", &IdentitySettings::default()), Err(Refusal::IdentityPattern));

        assert_eq!(claim.current().unwrap().as_bytes(), A);
    }

    #[test]
    fn a_claim_of_transaction_scope_is_used_once() {
        let mut claim = Claim::at_startup(Identity::new(A, &Pattern::Uuid));

        claim.on_transaction_end(Scope::Session);
        assert!(claim.current().is_some());
        claim.on_transaction_end(Scope::Transaction);

        assert!(claim.current().is_none());
    }

    #[test]
    fn an_identity_does_not_print_itself() {
        assert_eq!(format!("{:?}", Identity::new(A, &Pattern::Uuid)), "Some(Identity(…))");
    }
}
