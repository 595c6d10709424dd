//! What a server says it is: a primary or a standby, for writing or for reading.
//!
//! PostgreSQL reports two settings at login and whenever they change (since 14): `in_hot_standby`, which goes off at a promotion,
//! and `default_transaction_read_only`. So which server one has reached is known without asking, and stays known.
//!
//! # Promises
//! - What was not reported is not guessed.
//!
//! # Refuses
//! To know which role is wanted: that is [`crate::pool`]'s.

use crate::session::parameters::Parameters;

/// What a server is, as far as it has said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Role {
    /// Whether it follows another (`in_hot_standby`).
    pub is_standby: Option<bool>,
    /// Whether transactions begin as `READ ONLY` (`default_transaction_read_only`), whoever wanted that.
    pub is_read_only: Option<bool>,
}

impl Role {
    /// What these reports say.
    pub fn of(reported: &Parameters) -> Self {
        let mut role = Self::default();
        for name in [IN_HOT_STANDBY, DEFAULT_TRANSACTION_READ_ONLY] {
            if let Some(value) = reported.value(name) {
                role.on_report(name, value);
            }
        }
        role
    }

    /// A setting was reported; which one hardly ever matters here.
    pub fn on_report(&mut self, name: &[u8], value: &[u8]) {
        let is_on = Some(value.eq_ignore_ascii_case(b"on"));
        if name.eq_ignore_ascii_case(IN_HOT_STANDBY) {
            self.is_standby = is_on;
        } else if name.eq_ignore_ascii_case(DEFAULT_TRANSACTION_READ_ONLY) {
            self.is_read_only = is_on;
        }
    }
}

/// What a client may set too, and then it says nothing about the server.
pub const DEFAULT_TRANSACTION_READ_ONLY: &[u8] = b"default_transaction_read_only";

const IN_HOT_STANDBY: &[u8] = b"in_hot_standby";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_what_was_reported_last() {
        let reported: Parameters =
            [(&b"in_hot_standby"[..], &b"on"[..]), (b"TimeZone", b"UTC")].into_iter().collect();

        let mut role = Role::of(&reported);

        assert_eq!(role, Role { is_standby: Some(true), is_read_only: None });
        role.on_report(b"in_hot_standby", b"off");
        role.on_report(b"Default_Transaction_Read_Only", b"on");
        role.on_report(b"TimeZone", b"on");
        assert_eq!(role, Role { is_standby: Some(false), is_read_only: Some(true) });
    }
}
