//! PAUSE, RESUME, RECONNECT, WAIT_CLOSE, KILL, DISABLE, ENABLE, RELOAD, SET, SHUTDOWN.
//!
//! # Promises
//! - What is done is a line in the log, with who did it.
//! - PAUSE and WAIT_CLOSE answer when it is so.

use crate::console::Console;
use crate::console::command::{Command, Ending};
use crate::names::Database;
use crate::proxy::Farewell;
use crate::proxy::cancel::Order;

/// What a command that steers has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Steered {
    /// It is done: the tag.
    Done(String),
    /// It cannot be: SQLSTATE and words.
    Refused(&'static str, String),
    /// It has begun, and is answered with this tag once the pools are at rest.
    UntilPaused(Option<Database>),
    /// The same, once servers of before are gone.
    UntilClosed(Option<Database>),
}

/// `object_not_in_prerequisite_state`.
const NOT_NOW: &str = "55000";

/// `feature_not_supported`.
const NOT_HERE: &str = "0A000";

const NO_FDS: &str = "SHOW FDS hands sockets, cancel keys and passwords to another PgBouncer, which pgusher does not; \
                      use SHOW SOCKETS";

const NO_SUSPEND: &str = "SUSPEND holds sockets still for PgBouncer's online restart (-R), which pgusher does not have; \
                          use PAUSE, or start the next pgusher beside this one and have this one drain";

fn done(tag: &str) -> Steered {
    Steered::Done(tag.to_owned())
}

impl Console {
    /// Does it, or begins to.
    pub(super) fn steer(&self, command: &Command) -> Steered {
        if let Some(unknown) = named(command).filter(|name| !self.knows(name)) {
            return Steered::Refused("3D000", format!("no such database: {unknown}"));
        }
        let pools = &self.proxy.pools;
        match command {
            Command::Pause(database) => match pools.pause(database.as_ref()) {
                true => Steered::UntilPaused(database.clone()),
                false => Steered::Refused(NOT_NOW, "already suspended/paused".into()),
            },
            Command::Resume(database) => match (pools.resume(database.as_ref()), database) {
                (true, _) => done("RESUME"),
                (false, None) => Steered::Refused(NOT_NOW, "pooler is not paused/suspended".into()),
                (false, Some(name)) => Steered::Refused(NOT_NOW, format!("database {name} is not paused")),
            },
            Command::Reconnect(database) => {
                pools.of(database.as_ref()).iter().for_each(|pool| pool.renew());
                done("RECONNECT")
            }
            Command::WaitClose(database) => Steered::UntilClosed(database.clone()),
            Command::Kill(database) => self.kill(database.as_ref()),
            Command::KillClient(id) => self.kill_client(*id),
            Command::Disable(database) => {
                pools.disable(database, true);
                done("DISABLE")
            }
            Command::Enable(database) => {
                pools.disable(database, false);
                done("ENABLE")
            }
            Command::Reload => match self.reloader.reload() {
                Ok(_) => done("RELOAD"),
                Err(problems) => Steered::Refused("F0000", format!("RELOAD failed: {problems}")),
            },
            Command::Set(key, value) => match self.reloader.set(key, value) {
                Ok(_) => Steered::Done(format!("SET {key}={value}")),
                Err(problems) => Steered::Refused("22023", format!("SET failed: {problems}")),
            },
            Command::Shutdown(ending) => {
                self.proxy.ask_to_go(match ending {
                    Ending::AtOnce => Farewell::Abrupt,
                    Ending::Drained => Farewell::Drained,
                });
                done("SHUTDOWN")
            }
            Command::ShowFds => Steered::Refused(NOT_HERE, NO_FDS.into()),
            Command::Suspend => Steered::Refused(NOT_HERE, NO_SUSPEND.into()),
            Command::Nameless => Steered::Refused("42601", "a database is required".into()),
            _ => Steered::Refused("42601", "use SHOW HELP;".into()),
        }
    }

    fn knows(&self, database: &Database) -> bool {
        self.proxy.edition().catalog.has(database) || !self.proxy.pools.of(Some(database)).is_empty()
    }

    /// Clients of a database are gone at once, its servers with them, and it is paused, as in PgBouncer.
    fn kill(&self, database: Option<&Database>) -> Steered {
        if self.proxy.pools.are_paused() {
            return Steered::Refused(NOT_NOW, "already suspended/paused".into());
        }
        match database {
            Some(database) => drop(self.proxy.pools.pause(Some(database))),
            None => {
                let edition = self.proxy.edition();
                let configured = edition.catalog.listing().map(|listing| listing.name.as_str().into());
                let open = self.proxy.pools.all().into_iter().map(|pool| pool.key().database.clone());
                configured.chain(open).for_each(|database: Database| {
                    self.proxy.pools.pause(Some(&database));
                });
            }
        }
        for client in self.proxy.clients.all() {
            let pool = client.about().and_then(|about| about.pool.as_ref());
            if pool.is_some_and(|pool| database.is_none_or(|database| pool.database == *database)) {
                client.order(Order::Die);
            }
        }
        done("KILL")
    }

    fn kill_client(&self, id: u64) -> Steered {
        match self.proxy.clients.all().into_iter().find(|client| client.id.0 == id) {
            Some(client) => {
                client.order(Order::Die);
                done("KILL_CLIENT")
            }
            None => Steered::Refused("42704", "client not found".into()),
        }
    }
}

/// The database that a command names.
fn named(command: &Command) -> Option<&Database> {
    match command {
        Command::Disable(name) | Command::Enable(name) => Some(name),
        Command::Kill(name)
        | Command::Pause(name)
        | Command::Reconnect(name)
        | Command::Resume(name)
        | Command::WaitClose(name) => name.as_ref(),
        _ => None,
    }
}
