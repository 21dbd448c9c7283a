//! `completions`: prints the script for a shell's completion of this command line.

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use crate::args::CommandLine;
use crate::command_answer::{CommandAnswer, Format};

pub(crate) fn completions(format: Format, shell: Shell) -> CommandAnswer {
    #[derive(Serialize)]
    struct Completions<'a> {
        shell: String,
        script: &'a str,
    }
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "trust-auth", &mut bytes);
    let script = String::from_utf8_lossy(&bytes);
    CommandAnswer::new(format, &Completions { shell: shell.to_string(), script: &script }, || {
        script.trim_end().to_owned()
    })
}
