//! What the server sees of a test: who is connected, who sleeps.

use super::{Postgres, Raw};

/// Statements that read the table `gate` take until this is opened, however quick or slow the machine is.
pub struct Gate {
    keeper: Raw,
}

impl Gate {
    pub async fn open(mut self) {
        self.keeper.rows("commit").await;
        self.keeper.terminate().await;
    }
}

impl Postgres {
    /// Connections of this role to the test's database.
    pub async fn servers_of(&self, user: &str) -> usize {
        let sql = format!(
            "select count(*) from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend' and usename = '{user}'"
        );
        self.value(&sql).await.parse().expect("a count")
    }

    /// Waits until so many connections of this role are there.
    pub async fn until_servers_of(&self, user: &str, count: usize) {
        let sql = format!(
            "select count(*) from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend' and usename = '{user}'"
        );
        self.until(&sql, &count.to_string()).await;
    }

    /// Waits until so many `pg_sleep` of the test's database are under way.
    pub async fn until_asleep(&self, count: usize) {
        let sql = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event = 'PgSleep'";
        self.until(sql, &count.to_string()).await;
    }

    /// A closed gate in the test's database.
    pub async fn gate(&self) -> Gate {
        let mut keeper = Raw::login(&self.superuser()).await;
        keeper.rows("create table if not exists gate (); grant select on gate to public").await;
        keeper.rows("begin; lock table gate in access exclusive mode").await;
        Gate { keeper }
    }

    /// Waits until so many statements stand at the gate.
    pub async fn until_at_gate(&self, count: usize) {
        let sql = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'";
        self.until(sql, &count.to_string()).await;
    }

    /// Terminates every connection of this role to the test's database, and waits until they are gone.
    pub async fn terminate_servers_of(&self, user: &str) {
        self.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and usename = '{user}'"
        ))
        .await;
        self.until_servers_of(user, 0).await;
    }
}
