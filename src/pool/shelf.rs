//! The idle servers of a pool, and which of them is lent next.
//!
//! A server that is lent to the client it had last need not be cleaned (`pool.clean = "always"`), and the clean is a fifth of what a
//! small transaction costs us, and a third of what it costs PostgreSQL. deadpool lends what was given back last, whoever asks; so its objects are
//! tickets for a server from here. It counts and bounds, and has servers made; the shelf chooses.
//!
//! # Promises
//! - A client gets the server that awaits it, if that is idle.
//! - Any other gets one that awaits nobody; only without one of those, one that awaits somebody else. The last given back comes first in
//!   both, so that those beyond what is needed go idle; and of clients that come in turns the one that has been away for longest is the next.
//! - A server awaits nobody who has left, and nobody for longer than [`PATIENCE`]. So as many servers stay in use as clients have
//!   come within that time, and the others go idle until `pool.idle_timeout`. A client that comes less often is served by the server that
//!   is used most: a clean each second is not worth a server.
//! - Nothing is allocated once there has been room for as many. Taking one and putting it back takes 31 ns where the one that is
//!   wanted is behind 20 others, 49 behind 100, 177 behind 500 (`cargo bench -- shelf`, AMD EPYC): a transaction takes 25,000.
//!
//! # Refuses
//! To know whether one is still good, or what it is: that is for whoever takes it.
//!
//! # Invariants
//! There are at least as many servers here as idle tickets: a server is put here before its ticket is given back, and
//! taken by who has a ticket.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::names::ClientId;

/// How long an idle server awaits its client.
const PATIENCE: Duration = Duration::from_secs(1);

/// Idle servers; what exactly, is for others.
#[derive(Debug)]
pub struct Shelf<T>(Mutex<Idle<T>>);

#[derive(Debug)]
struct Idle<T> {
    /// The longest idle first, nearly: a server that a cancel request was on its way to comes late.
    awaiting: VecDeque<Awaiting<T>>,
    /// Those that await nobody; the last is lent first.
    free: Vec<T>,
}

#[derive(Debug)]
struct Awaiting<T> {
    client: ClientId,
    since: Instant,
    server: T,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Mutex::new(Idle { awaiting: VecDeque::new(), free: Vec::new() }))
    }
}

impl<T> Shelf<T> {
    fn idle(&self) -> MutexGuard<'_, Idle<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is idle since then, and awaits this client.
    pub fn put(&self, server: T, awaited: Option<ClientId>, since: Instant) {
        let mut idle = self.idle();
        match awaited {
            Some(client) => idle.awaiting.push_back(Awaiting { client, since, server }),
            None => idle.free.push(server),
        }
    }

    /// The one to be lent to this client `now`.
    ///
    /// Whoever awaits is looked at one by one, at most as many as clients have come within a second.
    pub fn take(&self, client: Option<ClientId>, now: Instant) -> Option<T> {
        let mut idle = self.idle();
        idle.lose_patience(now);
        idle.take_awaiting(client).or_else(|| idle.free.pop()).or_else(|| idle.take_last())
    }

    /// A client is gone.
    pub fn forget(&self, client: ClientId) {
        let mut idle = self.idle();
        let server = idle.take_awaiting(Some(client));
        idle.free.extend(server);
    }

    /// Goes through all of them; nobody puts or takes one meanwhile.
    pub fn round(&self) -> Round<'_, T> {
        Round { idle: self.idle(), at: 0 }
    }
}

impl<T> Idle<T> {
    fn lose_patience(&mut self, now: Instant) {
        let is_over = |it: &Awaiting<T>| now.saturating_duration_since(it.since) >= PATIENCE;
        while self.awaiting.front().is_some_and(is_over) {
            let first = self.awaiting.pop_front();
            self.free.extend(first.map(|it| it.server));
        }
    }

    fn take_awaiting(&mut self, client: Option<ClientId>) -> Option<T> {
        let client = client?;
        let at = self.awaiting.iter().position(|it| it.client == client)?;
        self.awaiting.remove(at).map(|it| it.server)
    }

    fn take_last(&mut self) -> Option<T> {
        self.awaiting.pop_back().map(|it| it.server)
    }

    fn find(&self, at: usize) -> Option<&T> {
        let awaiting = || self.awaiting.get(at.checked_sub(self.free.len())?).map(|it| &it.server);
        self.free.get(at).or_else(awaiting)
    }

    fn remove(&mut self, at: usize) -> Option<T> {
        if at < self.free.len() {
            return Some(self.free.remove(at));
        }
        self.awaiting.remove(at - self.free.len()).map(|it| it.server)
    }
}

/// Goes through the idle servers, those first that will be lent last.
#[derive(Debug)]
pub struct Round<'a, T> {
    idle: MutexGuard<'a, Idle<T>>,
    at: usize,
}

impl<T> Round<'_, T> {
    /// Takes the next one that is to go; each is asked about once.
    pub fn next(&mut self, mut is_to_go: impl FnMut(&T) -> bool) -> Option<T> {
        loop {
            if is_to_go(self.idle.find(self.at)?) {
                return self.idle.remove(self.at);
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<ClientId> = Some(ClientId(1));
    const B: Option<ClientId> = Some(ClientId(2));
    const C: Option<ClientId> = Some(ClientId(3));

    /// A shelf with these, given back in this order a millisecond apart; and when the last one was.
    fn shelf(servers: &[(u32, Option<ClientId>)]) -> (Shelf<u32>, Instant) {
        let shelf = Shelf::default();
        let mut now = Instant::now();
        for (server, awaited) in servers {
            now += Duration::from_millis(1);
            shelf.put(*server, *awaited, now);
        }
        (shelf, now)
    }

    #[test]
    fn a_client_gets_the_server_that_awaits_it() {
        let (shelf, now) = shelf(&[(10, A), (20, B), (30, None), (40, C)]);

        assert_eq!([B, A, C].map(|client| shelf.take(client, now)), [Some(20), Some(10), Some(40)]);
    }

    #[test]
    fn who_has_none_gets_the_last_that_awaits_nobody() {
        let (shelf, now) = shelf(&[(10, A), (20, None), (30, None), (40, B)]);

        assert_eq!([C, None].map(|client| shelf.take(client, now)), [Some(30), Some(20)]);
    }

    #[test]
    fn without_a_free_one_it_gets_the_last_given_back() {
        let (shelf, now) = shelf(&[(10, A), (20, B)]);

        assert_eq!(shelf.take(C, now), Some(20));
        assert_eq!([A, B].map(|client| shelf.take(client, now)), [Some(10), None]);
    }

    #[test]
    fn of_three_that_take_turns_on_two_servers_every_other_finds_its_own() {
        let (shelf, mut now) = shelf(&[(10, None), (20, None)]);
        let mut guests = [(10, None), (20, None)];
        let mut hits = 0;

        for client in [A, B, C].into_iter().cycle().take(60) {
            now += Duration::from_millis(1);
            let server = shelf.take(client, now).unwrap();
            let (_, guest) = guests.iter_mut().find(|(it, _)| *it == server).unwrap();
            hits += usize::from(std::mem::replace(guest, client) == client);
            shelf.put(server, client, now);
        }

        assert!((28..=30).contains(&hits), "{hits}");
    }

    #[test]
    fn a_server_does_not_await_who_has_left() {
        let (shelf, now) = shelf(&[(10, A), (20, B), (30, None)]);

        shelf.forget(ClientId(2));
        shelf.forget(ClientId(9));

        assert_eq!([C, C].map(|client| shelf.take(client, now)), [Some(20), Some(30)]);
    }

    #[test]
    fn patience_ends() {
        let (shelf, now) = shelf(&[(10, A), (20, B), (30, C)]);

        let later = now + PATIENCE - Duration::from_millis(1);
        assert_eq!(shelf.take(A, later), Some(20), "10 and 20 are free by then, the later one on top");
        assert_eq!(shelf.take(C, later), Some(30));
    }

    #[test]
    fn clients_that_come_rarely_share_a_server_and_the_others_idle() {
        let (shelf, mut now) = shelf(&[(10, A), (20, B), (30, C)]);
        let mut used = Vec::new();

        for client in [A, B, C, A, B, C] {
            now += PATIENCE;
            let server = shelf.take(client, now).unwrap();
            used.push(server);
            shelf.put(server, client, now);
        }

        assert_eq!(used, [30; 6]);
    }

    #[test]
    fn a_round_asks_about_each_once_and_takes_those_that_are_to_go() {
        let (shelf, now) = shelf(&[(10, A), (20, None), (30, B), (40, None), (50, C)]);
        let mut asked = Vec::new();
        let mut gone = Vec::new();

        let mut round = shelf.round();
        while let Some(server) = round.next(|server| {
            asked.push(*server);
            [20, 30, 50].contains(server)
        }) {
            gone.push(server);
        }
        drop(round);

        assert_eq!(asked, [20, 40, 10, 30, 50]);
        assert_eq!(gone, [20, 30, 50]);
        assert_eq!([B, A, B].map(|client| shelf.take(client, now)), [Some(40), Some(10), None]);
    }
}
