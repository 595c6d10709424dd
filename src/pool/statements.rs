//! The text of prepared statements, shared by the clients of one pool.
//!
//! Of one pool, because what one database accepts another may not.
//!
//! # Promises
//! - The key is the whole definition, compared byte for byte; a hash only finds it.
//! - A number is never given to another text, also after its first has been evicted.
//! - A name on the servers cannot be guessed, nor made out from others: each is drawn by itself.
//!
//! # Refuses
//! To know which server has what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use crate::session::prepared::{Interner, Statement};

/// Bytes of text kept for clients yet to come. What clients use stays alive beyond it: they hold it themselves.
const CAPACITY: u64 = 8 << 20;

/// The shared text of prepared statements.
pub struct Statements {
    cache: Cache<Arc<[u8]>, Arc<Statement>>,
    next: AtomicU64,
}

impl Default for Statements {
    fn default() -> Self {
        let weigher =
            |definition: &Arc<[u8]>, _: &Arc<Statement>| u32::try_from(definition.len()).unwrap_or(u32::MAX);
        Self {
            cache: Cache::builder().max_capacity(CAPACITY).weigher(weigher).build(),
            next: AtomicU64::new(1),
        }
    }
}

impl Interner for Statements {
    fn intern(&self, definition: &[u8]) -> Arc<Statement> {
        if let Some(statement) = self.cache.get(definition) {
            return statement;
        }
        self.cache.get_with(definition.into(), || {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            Arc::new(Statement::new(number, chance(), definition))
        })
    }

    fn is_proven(&self, definition: &[u8]) -> bool {
        self.cache.get(definition).is_some_and(|statement| statement.is_proven())
    }
}

#[expect(
    clippy::expect_used,
    reason = "without randomness no client has a cancel key, so none is there to prepare"
)]
fn chance() -> u64 {
    getrandom::u64().expect("the system gives random numbers, as it gave the client its cancel key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_definitions_are_one_statement_and_others_are_not() {
        let statements = Statements::default();

        let a = statements.intern(b"select 1\0\0\0");
        let b = statements.intern(b"select 1\0\0\0");
        let c = statements.intern(b"select 1\0\0\x01\0\0\0\x17");

        assert_eq!(a.number, b.number);
        assert_ne!(a.number, c.number);
    }

    #[test]
    fn the_names_of_two_pools_have_nothing_in_common() {
        let names = || {
            let statements = Statements::default();
            let of = |text: &[u8]| statements.intern(text).server_name().to_vec();
            [of(b"select 1\0\0\0"), of(b"select 2\0\0\0")]
        };

        let all: std::collections::BTreeSet<_> = names().into_iter().chain(names()).collect();

        assert_eq!(all.len(), 4);
    }
}
