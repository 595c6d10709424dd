//! Signed tokens (JWT): who a client's user is, proven by somebody with a key.
//!
//! The conversation ([`crate::session`]) has neither a clock nor keys: it says "this client gives that token" and is told what
//! the token proves, once for each SET or login, never on the way of queries. That is found out here.
//!
//! ```text
//!  token ──► hash ──► known, by the same keys? ──────────────────────────────► Grant, until it expires
//!                         │ no                                                   ▲
//!                         └─► header: kid ──► key ──► alg pinned to it ──► signature, exp, nbf, aud, iss ──► claims
//!                                       │ unknown                                                     to variables
//!                                       └─► fetched once more, then refused
//! ```
//!
//! # Promises
//! - The algorithm is the key's, never the token's choice: `none`, and HS256 with a public key for its secret, are refused.
//! - A token without an expiry is refused; what is granted ends with it.
//! - No token, claim or secret is logged; a fault says which kind it is.
//!
//! # Refuses
//! To sign, to decrypt, to follow what a token says of where its key is (`jku`, `jwk`, `x5u`).

mod fetch;
mod keys;
mod signature;
mod source;
mod verify;

pub use fetch::{check_certificates, check_url};
pub use keys::{KeyError, KeySet, Secrecy};
pub use source::secret;
pub use verify::{Tokens, has_passed};
