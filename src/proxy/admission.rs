//! What a client has to do to be let in, from where it comes and who it says it is.
//!
//! [`rules`](crate::auth::rules) decides; this looks at the connection for it, and answers what the operating system can.
//!
//! # Promises
//! - Nobody is looked up before the rules have spoken, so what they say is the same for those who exist and those who do not.
//! - Without rules `listen.auth` holds for everybody.
//! - Who is at the other end of a unix socket is asked of the kernel (`SO_PEERCRED`), never of the client.
//!
//! # Refuses
//! To ask for a password; to ask anybody but `/etc/passwd` for the name of a user of the system. One that has none there is
//! known by its number.

use std::fs;

use crate::auth::rules::{Demand, Knock, Transport, decide};
use crate::auth::{Method, ident};
use crate::names::{Database, User};
use crate::net::Peer;
use crate::net::stream::Remote;
use crate::proxy::Settings;
use crate::session::opening::{OpeningError, Visitor};
use crate::wire::startup::Replication;

/// What is asked of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Nothing more: its certificate names it.
    Certified,
    /// Nothing more: it is known who it is.
    Known,
    /// To prove itself.
    Prove(Method),
}

impl Admission {
    /// The method it comes to.
    pub(super) fn method(self) -> Method {
        match self {
            Self::Certified => Method::Cert,
            Self::Known => Method::Trust,
            Self::Prove(method) => method,
        }
    }
}

/// What a client says it is.
pub(super) struct Applicant<'a> {
    pub(super) user: &'a User,
    /// The name as it was said: there may be an identity behind the user's. All that is answered is about this one, or the
    /// answer would tell whether there is a user of the whole name.
    pub(super) called: &'a User,
    pub(super) database: &'a Database,
    pub(super) replication: Replication,
    /// The names its certificate gives it, if it has one.
    pub(super) certificate: Option<&'a [String]>,
}

/// What the rules ask of this client.
///
/// # Errors
/// It may not come in.
pub(super) fn demanded(
    settings: &Settings,
    peer: &Peer,
    applicant: &Applicant<'_>,
) -> Result<Admission, OpeningError> {
    if settings.rules.is_empty() {
        return Ok(Admission::Prove(settings.auth));
    }
    let knock = Knock {
        transport: transport(peer),
        database: applicant.database.as_bytes(),
        user: applicant.user.as_bytes(),
        is_replication: applicant.replication == Replication::Physical,
    };
    let Some(rule) = decide(&settings.rules, &knock) else {
        return Err(OpeningError::NoRule(visitor(peer, applicant)));
    };
    let permits = |map: &Option<Box<str>>, names: &[String]| {
        ident::permits(&settings.maps, map.as_deref(), names, applicant.user.as_bytes())
    };
    match &rule.demand {
        Demand::Prove(method) => Ok(Admission::Prove(*method)),
        Demand::Reject => Err(OpeningError::Rejected(visitor(peer, applicant))),
        Demand::Peer(map) if permits(map, &system_names(peer)) => Ok(Admission::Known),
        Demand::Peer(_) => Err(OpeningError::PeerFailed(applicant.called.clone())),
        Demand::Cert(map) => match (applicant.certificate, map) {
            (None, _) => Err(OpeningError::NoCertificate),
            (Some(names), Some(_)) if permits(map, names) => Ok(Admission::Certified),
            // Without a map of its own, that of [tls.client] holds.
            (Some(names), None) if settings.certificates.admit(names, applicant.user.as_bytes()) => {
                Ok(Admission::Certified)
            }
            (Some(_), _) => Err(OpeningError::WrongCertificate(applicant.called.clone())),
        },
    }
}

/// How it is connected. A connection that has no address any more comes from nowhere that a rule would name.
fn transport(peer: &Peer) -> Transport {
    let stream = peer.stream();
    match (stream.remote(), stream.local()) {
        (Ok(Remote::Unix), _) => Transport::Local,
        (Ok(Remote::Tcp(remote)), Some(local)) => {
            Transport::Tcp { remote: remote.ip(), local: local.ip(), is_encrypted: stream.is_encrypted() }
        }
        _ => Transport::Tcp {
            remote: std::net::Ipv6Addr::UNSPECIFIED.into(),
            local: std::net::Ipv4Addr::UNSPECIFIED.into(),
            is_encrypted: false,
        },
    }
}

fn visitor(peer: &Peer, applicant: &Applicant<'_>) -> Box<Visitor> {
    let host = match peer.stream().remote() {
        Ok(Remote::Tcp(address)) => address.ip().to_canonical().to_string(),
        _ => "[local]".to_owned(),
    };
    Box::new(Visitor {
        host: host.into(),
        user: applicant.called.clone(),
        database: (applicant.replication != Replication::Physical).then(|| applicant.database.clone()),
        is_encrypted: peer.stream().is_encrypted(),
    })
}

/// The name and the number of whoever opened the other end.
fn system_names(peer: &Peer) -> Vec<String> {
    let Some(number) = peer.stream().peer_user() else { return Vec::new() };
    let accounts = fs::read_to_string(ACCOUNTS).unwrap_or_default();
    account_of(number, &accounts).into_iter().map(str::to_owned).chain([number.to_string()]).collect()
}

/// The name of a user of the system, by its number. A name that is a number is nobody's: it would be taken for one.
fn account_of(number: u32, accounts: &str) -> Option<&str> {
    let mut lines = accounts.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next().filter(|name| name.parse::<u32>().is_err())?;
        (fields.nth(1)?.parse() == Ok(number)).then_some(name)
    })
}

/// Where the names of the system's users are.
const ACCOUNTS: &str = "/etc/passwd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_name_that_the_accounts_give_it() {
        let accounts =
            "root:x:0:0:root:/root:/bin/sh\nbroken\n7:x:8:8::/:/bin/sh\nann:x:1000:1000::/home/ann:\n";

        assert_eq!(account_of(0, accounts), Some("root"));
        assert_eq!(account_of(1000, accounts), Some("ann"));
        assert_eq!(account_of(8, accounts), None);
        assert_eq!(account_of(9, accounts), None);
    }
}
