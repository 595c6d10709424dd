//! Parse, decide, run. Exit codes: 0 done, 1 failed, 64 wrong usage or configuration.

use std::process::ExitCode;

use pgusher::app;
use pgusher::cli::{self, Command};
use pgusher::config::{Config, Surroundings};
use pgusher::telemetry;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return say(&exit.text, exit.code, exit.is_error()),
    };
    let config = match Config::load(&cli.flags, &Surroundings::of_process()) {
        Ok(config) => config,
        Err(problems) => return say(&problems.to_string(), cli::USAGE, true),
    };
    match cli.command {
        None => {
            telemetry::log::start(&config.log);
            match app::run(&config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => say(&format!("pgusher: {error}\n"), 1, true),
            }
        }
        Some(Command::Check { connect: _ }) => say("configuration is valid\n", 0, false),
        Some(Command::Doctor { .. } | Command::Demo { .. }) => say("not yet\n", 1, true),
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
