//! What a server needs to be told who the user is by a signed token (`form = "login"`).
//!
//! # Promises
//! - A sequence number is used once, whether its prelude is proven or not.
//! - A server that refuses a token is told the other kind the next time: somebody may have said RESET ALL where no text
//!   showed it, and then only the first token of a session is taken.
//!
//! # Invariants
//! - `knows_one` is what we believe of the server: whether it remembers a token.

use crate::auth::{Login, LoginKey};

/// The server setting that `ident.login` keeps the identity in.
pub const SETTING: &[u8] = b"backtrace_functions";

/// What its value begins with.
pub const PREFIX: &[u8] = b"pgusher_";

/// One server's logins.
#[derive(Debug, Default)]
pub struct Tier {
    /// The server's process, if it has said which it is.
    pub process: Option<u32>,
    /// The time, in seconds since 1970; given before each turn.
    pub now: u64,
    /// The sequence number used last.
    sequence: u64,
    knows_one: bool,
    token: Vec<u8>,
}

impl Tier {
    /// Makes the next token.
    pub(super) fn prepare(&mut self, key: &LoginKey, identity: &[u8]) {
        self.sequence = self.sequence.saturating_add(1);
        let login = Login {
            identity,
            is_first: !self.knows_one,
            now: self.now,
            process: self.process.unwrap_or_default(),
            sequence: self.sequence,
        };
        key.sign(login, &mut self.token);
    }

    /// The token made last; empty before the first.
    pub(super) fn token(&self) -> &[u8] {
        &self.token
    }

    /// The server remembers a token, or does not.
    pub(super) fn set_known(&mut self, knows_one: bool) {
        self.knows_one = knows_one;
    }

    /// The server has refused a prelude.
    pub(super) fn on_refused(&mut self, sqlstate: Option<[u8; 5]>) {
        if sqlstate.is_some_and(|sqlstate| &sqlstate == b"28000") {
            self.knows_one = !self.knows_one;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(tier: &mut Tier) -> (String, String) {
        tier.prepare(&LoginKey::new(&[b'k'; 32]).unwrap(), b"a");
        let token = String::from_utf8(tier.token().to_vec()).unwrap();
        let parts: Vec<_> = token.split('.').collect();
        (parts[3].to_owned(), parts[4].to_owned())
    }

    #[test]
    fn a_refused_token_is_followed_by_one_of_the_other_kind_and_never_by_its_number() {
        let mut tier = Tier::default();

        assert_eq!(prepared(&mut tier), ("1".into(), "1".into()));
        tier.on_refused(Some(*b"57014"));
        assert_eq!(prepared(&mut tier), ("2".into(), "1".into()));
        tier.set_known(true);
        assert_eq!(prepared(&mut tier), ("3".into(), "0".into()));
        tier.on_refused(Some(*b"28000"));
        assert_eq!(prepared(&mut tier), ("4".into(), "1".into()));
    }
}
