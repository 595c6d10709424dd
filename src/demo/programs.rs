//! Where PostgreSQL's programs are, and as whom its server may run.
//!
//! # Refuses
//! To install anything: what is missing is named.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::demo::failure::Failure;
use crate::demo::process::succeed;

/// PostgreSQL's programs.
pub(super) struct Programs {
    pub(super) initdb: PathBuf,
    pub(super) pgbench: PathBuf,
    pub(super) postgres: PathBuf,
    pub(super) psql: PathBuf,
}

impl Programs {
    /// Those of `PATH`, or else of the newest version where the packages of distributions put them.
    pub(super) fn find() -> Result<Self, Failure> {
        let path: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
        let packaged = packaged();
        let server = path
            .iter()
            .chain(&packaged)
            .find(|directory| ["initdb", "postgres"].iter().all(|program| directory.join(program).is_file()))
            .ok_or(Failure::Missing(
                "PostgreSQL 14 or later (initdb and postgres, in PATH or in /usr/lib/postgresql)",
            ))?;
        let client = |program, missing| {
            let mut directories = std::iter::once(server).chain(&path).chain(&packaged);
            let found =
                directories.find_map(|directory| Some(directory.join(program)).filter(|file| file.is_file()));
            found.ok_or(Failure::Missing(missing))
        };
        Ok(Self {
            initdb: server.join("initdb"),
            pgbench: client("pgbench", "pgbench (it comes with PostgreSQL's client programs)")?,
            postgres: server.join("postgres"),
            psql: client("psql", "psql (it comes with PostgreSQL's client programs)")?,
        })
    }
}

/// Where Debian and Red Hat put them, the newest first.
fn packaged() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        found.extend(entries.filter_map(|entry| {
            let major = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        }));
    }
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, directory)| directory).collect()
}

/// An account without privileges.
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// As whom PostgreSQL is to run: it refuses to be root. `None` is as ourselves.
    pub(super) fn for_server() -> Result<Option<Self>, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let found = ["postgres", "nobody"].into_iter().find_map(Self::named);
        found.map(Some).ok_or(Failure::Missing("an account besides root: PostgreSQL refuses to run as root"))
    }

    fn named(name: &str) -> Option<Self> {
        let ask = |what: &str| {
            let mut id = Command::new("id");
            id.args([what, name]);
            succeed(id, "id").ok()?.trim().parse().ok()
        };
        Some(Self { uid: ask("-u")?, gid: ask("-g")? })
    }

    /// Gives it a directory.
    pub(super) fn own(&self, directory: &Path) -> Result<(), Failure> {
        std::os::unix::fs::chown(directory, Some(self.uid), Some(self.gid))
            .map_err(|error| Failure::File(directory.into(), error))
    }
}
