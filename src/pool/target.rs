//! `target_session_attrs`: which servers will do.
//!
//! The words and their meaning are libpq's; what a server is, it has said at login ([`Role`]), so nothing is asked.
//!
//! # Promises
//! - A server that has not said what it is will do for nothing but `any`.
//!
//! # Refuses
//! To dial, to know hosts.

use std::fmt;

use crate::session::Role;

/// Which servers will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TargetSessionAttrs {
    /// Every one.
    #[default]
    Any,
    /// One that is no standby and begins transactions for writing.
    ReadWrite,
    /// One that is a standby, or begins transactions for reading.
    ReadOnly,
    /// One that is no standby.
    Primary,
    /// One that is.
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

/// Whether a server will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It will.
    Fit,
    /// If there is no better one.
    Spare,
    /// It will not, because of what it is.
    Unfit(Unfit),
}

/// What a server is that will not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// It is no standby.
    Primary,
    /// Transactions begin as `READ ONLY`.
    ReadOnly,
    /// It is a standby.
    Standby,
    /// It has not said.
    Unknown,
}

impl TargetSessionAttrs {
    /// Whether a server of this role will do (`PQconnectPoll` in fe-connect.c, `CONNECTION_CHECK_TARGET`).
    pub fn judge(self, role: Role) -> Verdict {
        match (self, role.is_standby, role.is_read_only) {
            (Self::Any, _, _) | (Self::PreferStandby | Self::Standby | Self::ReadOnly, Some(true), _) => {
                Verdict::Fit
            }
            (Self::PreferStandby, _, _) => Verdict::Spare,
            (_, None, _) | (Self::ReadWrite | Self::ReadOnly, _, None) => Verdict::Unfit(Unfit::Unknown),
            (Self::Primary | Self::ReadWrite, Some(true), _) => Verdict::Unfit(Unfit::Standby),
            (Self::ReadWrite, _, Some(true)) => Verdict::Unfit(Unfit::ReadOnly),
            (Self::Primary | Self::ReadWrite, Some(false), _) | (Self::ReadOnly, _, Some(true)) => {
                Verdict::Fit
            }
            (Self::Standby | Self::ReadOnly, Some(false), _) => Verdict::Unfit(Unfit::Primary),
        }
    }

    /// The one of this number (`as u8`).
    pub(super) fn from_number(number: u8) -> Self {
        Self::ALL.into_iter().find(|target| *target as u8 == number).unwrap_or_default()
    }

    const ALL: [Self; 6] =
        [Self::Any, Self::ReadWrite, Self::ReadOnly, Self::Primary, Self::Standby, Self::PreferStandby];

    /// Whether what is wanted is a server that can be written to.
    pub fn wants_writes(self) -> bool {
        matches!(self, Self::Primary | Self::ReadWrite)
    }

    /// As libpq has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::PreferStandby => "prefer-standby",
            Self::Primary => "primary",
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::Standby => "standby",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "is no standby",
            Self::ReadOnly => "begins transactions as READ ONLY",
            Self::Standby => "is a standby",
            Self::Unknown => "does not report what it is (PostgreSQL does since version 14)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_target_again() {
        for target in TargetSessionAttrs::ALL {
            assert_eq!(TargetSessionAttrs::from_number(target as u8), target);
        }
    }

    #[test]
    fn each_word_takes_what_libpq_takes() {
        use TargetSessionAttrs::*;
        use Verdict::{Fit, Spare};
        let not = Verdict::Unfit;
        let role = |is_standby, is_read_only| Role {
            is_standby: Some(is_standby),
            is_read_only: Some(is_read_only),
        };
        let (primary, closed, standby, silent) =
            (role(false, false), role(false, true), role(true, false), Role::default());
        for (target, of_primary, of_closed, of_standby, of_silent) in [
            (Any, Fit, Fit, Fit, Fit),
            (ReadWrite, Fit, not(Unfit::ReadOnly), not(Unfit::Standby), not(Unfit::Unknown)),
            (ReadOnly, not(Unfit::Primary), Fit, Fit, not(Unfit::Unknown)),
            (Primary, Fit, Fit, not(Unfit::Standby), not(Unfit::Unknown)),
            (Standby, not(Unfit::Primary), not(Unfit::Primary), Fit, not(Unfit::Unknown)),
            (PreferStandby, Spare, Spare, Fit, Spare),
        ] {
            let verdicts = [primary, closed, standby, silent].map(|role| target.judge(role));
            assert_eq!(verdicts, [of_primary, of_closed, of_standby, of_silent], "{target:?}");
        }
    }
}
