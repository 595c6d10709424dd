//! Parse, decide, run. Exit codes: 0 done, 1 failed, 64 wrong usage or configuration.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::process::ExitCode;

use pgusher::cli::{self, Command, Flags};
use pgusher::config::{Config, Surroundings};
use pgusher::{app, check, demo, telemetry};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return say(&exit.text, exit.code, exit.is_error()),
    };
    match cli.command {
        Some(Command::Demo { once }) => show(once, &cli.flags),
        Some(Command::Check { connect }) => with_config(&cli.flags, |config| check(config, connect)),
        None => with_config(&cli.flags, |config| {
            telemetry::log::start(&config.log);
            for variable in Surroundings::of_process().upcoming() {
                tracing::warn!(variable, "ignored: this build serves no metrics yet");
            }
            ended(app::run(config))
        }),
    }
}

/// Does something with the configuration, or says everything that is wrong with it.
fn with_config(flags: &Flags, act: impl FnOnce(&Config) -> ExitCode) -> ExitCode {
    match Config::load(flags, &Surroundings::of_process()) {
        Ok(config) => act(&config),
        Err(problems) => say(&format!("{problems}\n"), cli::USAGE, true),
    }
}

/// The demo starts servers and poolers of its own: no settings are read, so none may be given.
fn show(once: bool, flags: &Flags) -> ExitCode {
    if *flags != Flags::default() {
        return say("pgusher: demo brings its own settings; leave the flags away\n", cli::USAGE, true);
    }
    ended(demo::run(once))
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
