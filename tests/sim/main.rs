//! The whole conversation, simulated: N clients, M servers, one scheduler, no sockets and no clock.
//!
//! The oracle: no client ever reads a row made for another, or made in another's name; no statement runs in a name that is
//! not its client's, or twice; none meets what another's function has left; no server is given back unclean; nobody waits for ever.
//!
//! A failure prints its seed. `SIM_SEED=17 cargo test --test sim` plays one world again, `SIM_TRACE=1` says
//! all that happens in it; `SIM_SEEDS=0..5000` plays many.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "a test has no outside")]

/// Says what happens, if `SIM_TRACE` is set.
macro_rules! trace {
    ($($words:tt)*) => {
        if crate::is_traced() {
            eprintln!($($words)*);
        }
    };
}
pub(crate) use trace;

mod client;
mod postgres;
mod random;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;

use world::{Statistics, World};

/// The worlds that are tried without being asked for.
const SEEDS: std::ops::Range<u64> = 0..400;

#[test]
fn no_client_ever_reads_a_row_made_for_another() {
    let mut total = Statistics::default();
    for seed in seeds() {
        let one = play(seed);
        total.cancels += one.cancels;
        total.executed += one.executed;
        total.held += one.held;
        total.kills += one.kills;
        total.lost += one.lost;
        total.recovered += one.recovered;
        total.released += one.released;
        total.unwound += one.unwound;
    }
    println!("{total:?}");
    if std::env::var_os("SIM_SEED").is_none() {
        // A world in which nothing happens proves nothing.
        let Statistics { cancels, executed, held, kills, lost, recovered, released, unwound } = total;
        for (what, count) in [
            ("cancels", cancels),
            ("executed", executed),
            ("held", held),
            ("kills", kills),
            ("lost", lost),
            ("recovered", recovered),
            ("released", released),
            ("unwound", unwound),
        ] {
            assert!(count > 10, "only {count} {what} in all these worlds");
        }
    }
}

/// Each rule that is switched off must be missed: a simulation that cannot fail proves nothing.
#[cfg(feature = "mutations")]
#[test]
fn a_rule_that_is_switched_off_is_missed() {
    use pgusher::session::mutation::{Mutation, switch_off};

    std::panic::set_hook(Box::new(|_| {}));
    for mutation in [Mutation::NoClean, Mutation::NoCommit, Mutation::NoHoldBack, Mutation::NoStatus] {
        switch_off(Some(mutation));
        let failed = SEEDS.map(World::new).position(|mut world| {
            let result = catch_unwind(AssertUnwindSafe(|| world.run()));
            let message =
                result.err().map(|panic| panic.downcast::<String>().map(|text| *text).unwrap_or_default());
            if let Some(message) = &message {
                println!("{mutation:?}: {}", message.lines().next().unwrap_or_default());
            }
            message.is_some()
        });
        switch_off(None);
        assert!(failed.is_some(), "nobody misses the rule that {mutation:?} switches off");
        println!("{mutation:?} is missed in world {failed:?}");
    }
}

fn is_traced() -> bool {
    static IS_TRACED: OnceLock<bool> = OnceLock::new();
    *IS_TRACED.get_or_init(|| std::env::var_os("SIM_TRACE").is_some())
}

/// Bytes, readable.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\x00", "~")
}

fn play(seed: u64) -> Statistics {
    let mut world = World::new(seed);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = result {
        eprintln!("the world of seed {seed} failed: SIM_SEED={seed} plays it again");
        resume_unwind(panic);
    }
    world.statistics
}

fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return vec![seed.parse().expect("SIM_SEED is a number")];
    }
    match std::env::var("SIM_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("SIM_SEEDS is from..to");
            (from.parse().unwrap()..to.parse().unwrap()).collect()
        }
        Err(_) => SEEDS.collect(),
    }
}
