//! The command line, as typed.
//!
//! Flags are one of three ways to say the same things (file, environment, flags), and only one place may decide
//! between them. So nothing is resolved here: a flag is text until `config` has read it.
//!
//! # Promises
//! - What is returned is exactly what was typed; a flag that was not given is `None` or empty.
//! - Wrong usage ends in [`Exit`] with code 64 (`EX_USAGE`), help and version in code 0. Nothing is printed here.
//!
//! # Refuses
//! To read the environment, to open files, to know which values are valid.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A connection pooler for PostgreSQL that runs every transaction as its own client's user.
///
/// Without a subcommand it pools until it is told to stop. Settings come from the file, are overridden by
/// PGUSHER_* variables of the environment, and those by flags.
#[derive(Clone, PartialEq, Eq, Debug, Parser)]
#[command(name = "pgusher", version, max_term_width = 100)]
pub struct Cli {
    /// What to do; `None` is to pool.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings given as flags, before or after the subcommand.
    #[command(flatten)]
    pub flags: Flags,
}

/// What else the program can do.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
pub enum Command {
    /// Read the configuration, say everything that is wrong with it, and exit.
    Check {
        /// Also log in once to every database.
        #[arg(long)]
        connect: bool,
    },
    /// Show, on a PostgreSQL of its own, few servers serving many users without mixing them.
    Demo {
        /// Run through once and exit.
        #[arg(long)]
        once: bool,
    },
    /// Tell the running pgusher of this configuration to drain, as SIGTERM would; for preStop hooks.
    Drain {
        /// Wait until it has ended.
        #[arg(long)]
        wait: bool,
    },
    /// Translate a configuration of PgBouncer, and say what could not be carried over.
    Import {
        /// PgBouncer's configuration.
        #[arg(value_name = "PGBOUNCER.INI")]
        ini: PathBuf,
        /// Its auth_file, for the names and passwords in it.
        #[arg(value_name = "USERLIST.TXT")]
        userlist: Option<PathBuf>,
        /// Where the outcome is written instead of standard output; the file must not be there yet.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Look for what lets a user through: roles, policies, functions, views, grants; say the SQL that mends it.
    ///
    /// Exit codes: 0 nothing found, 1 findings, 2 a database could not be examined, 64 wrong usage.
    Doctor(Doctor),
    /// Put the login tier (`identity.form = "login"`) into databases, as a superuser: give --upstream with its URL.
    Identity(Identity),
}

/// What `identity` is told.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct Identity {
    /// What to do.
    #[arg(value_enum)]
    pub action: Action,
    /// Databases, by the names clients use; all that are configured by name if none is given.
    #[arg(value_name = "DATABASE")]
    pub databases: Vec<String>,
    /// Print the SQL instead, to be run with psql.
    #[arg(long)]
    pub print: bool,
    /// How long other keys are good for after `rotate` [default: 1h]
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,
}

/// What can be done about the login tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Action {
    /// Install or upgrade it, and add the key of the configuration.
    Install,
    /// Add the key of the configuration, and let the others end.
    Rotate,
    /// Take it away.
    Uninstall,
}

/// What `doctor` is told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Args)]
pub struct Doctor {
    /// Databases, by the names clients use; all that are configured by name if none is given.
    #[arg(value_name = "DATABASE")]
    pub databases: Vec<String>,
    /// Say it as JSON.
    #[arg(long)]
    pub json: bool,
    /// The least that counts: advice, warning, critical [default: advice]
    #[arg(long, value_name = "SEVERITY")]
    pub level: Option<String>,
    /// Wait this long for servers that are not there yet, as in an init container [default: 0]
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<String>,
}

/// The common settings as flags; every other one has a key in the file and a variable.
#[derive(Clone, PartialEq, Eq, Debug, Default, Args)]
pub struct Flags {
    /// The configuration file [env: PGUSHER_CONFIG]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where PostgreSQL is: postgres://user:password@host:port/db [env: PGUSHER_UPSTREAM]
    #[arg(long, short, global = true, value_name = "URL")]
    pub upstream: Option<String>,
    /// Where clients come in; may be given more than once [env: PGUSHER_LISTEN] [default: 127.0.0.1:6432]
    #[arg(long, short, global = true, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Where the unix socket is made [env: PGUSHER_UNIX_SOCKET_DIR]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub unix_socket_dir: Option<String>,
    /// How clients prove who they are [env: PGUSHER_AUTH] [default: scram-sha-256]
    #[arg(long, global = true, value_name = "METHOD")]
    pub auth: Option<String>,
    /// Threads that serve clients, or `auto` [env: PGUSHER_WORKERS] [default: 1]
    #[arg(long, global = true, value_name = "COUNT")]
    pub workers: Option<String>,
    /// When a server may go home: transaction, session, statement [env: PGUSHER_POOL_MODE]
    #[arg(long, global = true, value_name = "MODE")]
    pub pool_mode: Option<String>,
    /// Most servers of each pool [env: PGUSHER_POOL_SIZE] [default: 20]
    #[arg(long, global = true, value_name = "COUNT")]
    pub pool_size: Option<String>,
    /// Servers each pool keeps ready [env: PGUSHER_POOL_MIN] [default: 2]
    #[arg(long, global = true, value_name = "COUNT")]
    pub pool_min: Option<String>,
    /// Longest a client waits for a server [env: PGUSHER_ACQUIRE_TIMEOUT] [default: 30s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub acquire_timeout: Option<String>,
    /// Whether identities are injected: on, off [env: PGUSHER_IDENTITY] [default: on]
    #[arg(long, global = true, value_name = "SWITCH")]
    pub identity: Option<String>,
    /// The variable that policies read [env: PGUSHER_IDENTITY_VARIABLE] [default: app.current_user_id]
    #[arg(long, global = true, value_name = "NAME")]
    pub identity_variable: Option<String>,
    /// A level, or filters such as info,pgusher::pool=debug [env: PGUSHER_LOG] [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look: text, json [env: PGUSHER_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// A command line that ends the program: help, the version, or wrong usage.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Exit {
    /// What is said, ready to print.
    pub text: String,
    /// 0, or [`USAGE`].
    pub code: u8,
}

impl Exit {
    /// Whether the text belongs on standard error.
    pub fn is_error(&self) -> bool {
        self.code != 0
    }
}

/// The exit code of wrong usage: `EX_USAGE` of sysexits.h.
pub const USAGE: u8 = 64;

/// Reads a command line, the program's name first.
///
/// # Errors
/// Help and version are [`Exit`]s too, with code 0.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(arguments).map_err(|error| Exit {
        text: error.render().to_string(),
        code: if error.use_stderr() { USAGE } else { 0 },
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Result<Cli, Exit> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_subcommand_is_to_pool() {
        let cli = parsed("pgusher --config a.toml --listen 127.0.0.1:1 --listen [::1]:1").unwrap();

        assert_eq!(cli.command, None);
        assert_eq!(cli.flags.config, Some("a.toml".into()));
        assert_eq!(cli.flags.listen, ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(cli.flags.pool_size, None);
    }

    #[test]
    fn flags_may_follow_the_subcommand() {
        let cli = parsed("pgusher check --connect --upstream postgres://h/d").unwrap();

        assert_eq!(cli.command, Some(Command::Check { connect: true }));
        assert_eq!(cli.flags.upstream.as_deref(), Some("postgres://h/d"));
    }

    #[test]
    fn values_are_not_judged_here() {
        assert_eq!(parsed("pgusher --pool-size lots").unwrap().flags.pool_size.as_deref(), Some("lots"));
    }

    #[test]
    fn wrong_usage_exits_with_64_and_help_with_0() {
        let wrong = parsed("pgusher --no-such-flag").unwrap_err();
        let help = parsed("pgusher --help").unwrap_err();

        assert_eq!((wrong.code, wrong.is_error()), (64, true));
        assert!(wrong.text.contains("--no-such-flag"), "{}", wrong.text);
        assert_eq!((help.code, help.is_error()), (0, false));
        assert!(help.text.contains("--upstream"), "{}", help.text);
    }
}
