//! Parse, decide, run. Exit codes: 0 done, 1 failed (or found something), 2 not examined, 64 wrong usage or configuration.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use pgusher::cli::{self, Command, Flags};
use pgusher::config::{self, Config, Surroundings};
use pgusher::doctor::{self, Severity, Visit};
use pgusher::import::{self, Sources};
use pgusher::{app, check, demo, drain_order, telemetry, tier};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return say(&exit.text, exit.code, exit.is_error()),
    };
    match cli.command {
        Some(Command::Demo { once }) => without_flags(&cli.flags, "demo", || ended(demo::run(once))),
        Some(Command::Drain { wait }) => {
            with_config(&cli.flags, |config| ended(drain_order::run(&config, wait)))
        }
        Some(Command::Doctor(doctor)) => match visit(&doctor) {
            Ok(visit) => with_config(&cli.flags, |config| examine(&config, &visit, doctor.json)),
            Err(reason) => say(&format!("pgusher: {reason}\n"), cli::USAGE, true),
        },
        Some(Command::Identity(identity)) => provide(&identity, &cli.flags),
        Some(Command::Check { connect }) => with_config(&cli.flags, |config| check(&config, connect)),
        Some(Command::Import { ini, userlist, output }) => {
            without_flags(&cli.flags, "import", || translate(&ini, userlist.as_deref(), output.as_deref()))
        }
        None => with_config(&cli.flags, |config| {
            let log = telemetry::log::start(&config.log);
            ended(app::run(config, cli.flags.clone(), log))
        }),
    }
}

/// Does something with the configuration, or says everything that is wrong with it.
fn with_config(flags: &Flags, act: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(flags, &Surroundings::of_process()) {
        Ok(config) => act(config),
        Err(problems) => say(&format!("{problems}\n"), cli::USAGE, true),
    }
}

/// The demo starts servers and poolers of its own, and an import reads PgBouncer's settings: no others are read, so
/// none may be given.
fn without_flags(flags: &Flags, command: &str, act: impl FnOnce() -> ExitCode) -> ExitCode {
    if *flags != Flags::default() {
        let text = format!("pgusher: {command} reads no settings of pgusher; leave the flags away\n");
        return say(&text, cli::USAGE, true);
    }
    act()
}

/// PgBouncer's configuration in our words, and what could not be said in them.
fn translate(ini: &Path, userlist: Option<&Path>, output: Option<&Path>) -> ExitCode {
    let imported = import::import(&Sources { ini, userlist, read_file: &|path| std::fs::read(path) });
    eprintln!("{}", imported.remarks);
    let written = match (imported.toml, output) {
        (None, _) => Ok(()),
        (Some(toml), None) => io::stdout().write_all(toml.as_bytes()),
        (Some(toml), Some(path)) => write_new(path, &toml),
    };
    match written {
        Err(error) => {
            let to = output.map_or_else(|| "standard output".into(), |path| path.display().to_string());
            say(&format!("pgusher: cannot write to {to}: {error}\n"), 1, true)
        }
        Ok(()) if imported.remarks.has_errors() => ExitCode::from(cli::USAGE),
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// A file that was not there, for nobody else to read: passwords may be in it.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn check(config: &Config, connect: bool) -> ExitCode {
    let valid = say("configuration is valid\n", 0, false);
    if !connect {
        return valid;
    }
    match check::connect(config) {
        Ok(report) => say(&report.to_string(), u8::from(report.is_bad()), report.is_bad()),
        Err(error) => ended(Err(error)),
    }
}

/// The login tier, into databases or onto paper.
fn provide(identity: &cli::Identity, flags: &Flags) -> ExitCode {
    let grace = identity.grace.as_deref().map_or(Some(Duration::from_secs(3600)), config::duration);
    let Some(grace) = grace else {
        return say("pgusher: --grace is a duration such as 1h\n", cli::USAGE, true);
    };
    let action = match identity.action {
        cli::Action::Install => tier::Action::Install,
        cli::Action::Rotate => tier::Action::Rotate(grace),
        cli::Action::Uninstall => tier::Action::Uninstall,
    };
    if identity.print {
        return say(tier::script(action), 0, false);
    }
    with_config(flags, |config| match tier::run(&config, &identity.databases, action) {
        Ok(report) => say(&report.to_string(), u8::from(report.is_bad()), report.is_bad()),
        Err(error) => ended(Err(error)),
    })
}

/// What the flags of `doctor` say.
fn visit(doctor: &cli::Doctor) -> Result<Visit, String> {
    let level = doctor.level.as_deref().map_or(Some(Severity::Advice), Severity::from_word);
    let wait = doctor.wait.as_deref().map_or(Some(Duration::ZERO), config::duration);
    Ok(Visit {
        databases: doctor.databases.clone(),
        level: level.ok_or("--level is advice, warning or critical")?,
        wait: wait.ok_or("--wait is a duration such as 30s or 2m")?,
    })
}

fn examine(config: &Config, visit: &Visit, as_json: bool) -> ExitCode {
    match doctor::examine(config, visit) {
        Ok(report) if as_json => say(&report.json(), report.exit_code(), false),
        Ok(report) => say(&report.to_string(), report.exit_code(), false),
        Err(error) => ended(Err(error)),
    }
}

fn ended(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&format!("pgusher: {error}\n"), 1, true),
    }
}

fn say(text: &str, code: u8, is_error: bool) -> ExitCode {
    if is_error {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
    ExitCode::from(code)
}
