//! What is worth counting in a conversation, counted where it is known.
//!
//! # Promises
//! - Plain numbers, taken away once a turn by whoever adds them up.
//!
//! # Refuses
//! Texts, names and values: an error is its class, a refusal its kind.

use crate::session::violation::Refusal;

/// The classes of SQLSTATE that are told apart; the last is for all others.
pub const ERROR_CLASSES: [&str; 14] =
    ["08", "0A", "22", "23", "25", "28", "40", "42", "53", "54", "55", "57", "P0", "other"];

/// The refusals that keep identities apart.
pub const IDENTITY_REFUSALS: [&str; 6] = ["channel", "expired", "missing", "pattern", "token", "unclear"];

/// Errors that a server has said to its client, by [class](ERROR_CLASSES).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Errors([u16; ERROR_CLASSES.len()]);

impl Errors {
    /// One more; without a code it is one of the others.
    pub fn count(&mut self, sqlstate: Option<[u8; 5]>) {
        let class = sqlstate.as_ref().and_then(|sqlstate| sqlstate.get(..2));
        let known = ERROR_CLASSES.iter().position(|known| Some(known.as_bytes()) == class);
        if let Some(count) = self.0.get_mut(known.unwrap_or(ERROR_CLASSES.len() - 1)) {
            *count = count.saturating_add(1);
        }
    }

    /// How many of each.
    pub fn each(self) -> [u16; ERROR_CLASSES.len()] {
        self.0
    }
}

/// Statements refused for the sake of the identity, by [kind](IDENTITY_REFUSALS).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals([u16; IDENTITY_REFUSALS.len()]);

impl Refusals {
    /// One more, if it is of those.
    pub fn count(&mut self, refusal: Refusal) {
        let kind = match refusal {
            Refusal::IdentityChannel => 0,
            Refusal::IdentityExpired => 1,
            Refusal::NoIdentity => 2,
            Refusal::IdentityPattern => 3,
            Refusal::Token(_) => 4,
            Refusal::IdentityUnclear => 5,
            _ => return,
        };
        if let Some(count) = self.0.get_mut(kind) {
            *count = count.saturating_add(1);
        }
    }

    /// Whether there were none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// How many of each.
    pub fn each(self) -> [u16; IDENTITY_REFUSALS.len()] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_counted_by_its_class() {
        let mut errors = Errors::default();

        for sqlstate in [Some(*b"23505"), Some(*b"23503"), Some(*b"XX000"), None] {
            errors.count(sqlstate);
        }

        let each = errors.each();
        assert_eq!((each[3], each[13], each.iter().sum()), (2, 2, 4u16));
    }

    #[test]
    fn only_refusals_about_the_identity_are_counted() {
        let mut refusals = Refusals::default();

        refusals.count(Refusal::UnknownStatement);
        let before = refusals;
        refusals.count(Refusal::NoIdentity);

        assert!(before.is_empty());
        assert_eq!(refusals.each(), [0, 0, 1, 0, 0, 0]);
    }
}
