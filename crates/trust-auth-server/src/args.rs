//! The command line: what can be asked for, and how `--help` explains it.
//!
//! No argument ever carries a key: other users of the machine can read a command line, and shells
//! keep it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use trust_auth::{ApiKey, TextFlaw};

use crate::answer::complain;
use crate::database::Target;
use crate::serve::Settings;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 130 interrupted.

With --json, standard output is exactly one line of JSON. A failure is {\"error\":{\"kind\":..,\"message\":..}}.

Keys are 43 characters, shown once, by `register` and `rotate`, and never stored: the database holds their SHA-256.
A running server refuses a disabled, rotated or deleted trust at once, because it checks the live row.";

/// Manages trusts and their API keys, and checks a key against them.
#[derive(Debug, Parser)]
#[command(name = "trust-auth", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) options: Options,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl CommandLine {
    /// Reads the process's arguments. Otherwise help, the version or what is wrong was said, and
    /// this is the exit code.
    pub(crate) fn read() -> Result<Self, ExitCode> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        Self::try_parse_from(&arguments).map_err(|error| {
            // clap quotes what it cannot place or read, of arguments and of the environment: it may be a key, or a URL with a password.
            let text = error.to_string();
            let tells_a_secret = ApiKey::may_be_in(&text) || text.contains("://") || text.contains("password=");
            if error.use_stderr() && arguments.iter().any(|argument| argument == "verify") {
                complain("`verify` takes no key as an argument: it reads the key from standard input. See `trust-auth verify --help`.");
            } else if error.use_stderr() && tells_a_secret {
                complain("wrong usage; what is wrong is not repeated, because it has the form of an API key or of a URL. `verify` reads a key from standard input, `--database` takes a URL. See `trust-auth --help`.");
            } else {
                // Whoever closed the stream does not want to know.
                let _ = error.print();
            }
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        })
    }
}

/// What is stored and listed as it is: not empty, distinct to its reader, and no key that was
/// pasted by mistake.
fn short_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty; leave it out".to_owned());
    }
    if ApiKey::may_be_in(text) {
        return Err("it looks like an API key".to_owned());
    }
    TextFlaw::check(text).map_err(|flaw| format!("it {flaw}"))?;
    Ok(text.to_owned())
}

/// What applies to every command.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) database: Target,

    /// Write one line of JSON instead of text
    #[arg(long, global = true, display_order = 103)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a trust and print its new API key, once
    ///
    /// The key is the only thing on standard output, so that it can be piped to where secrets are
    /// kept. Creates the database if it is missing.
    Register(Register),

    /// List the trusts, by name
    List,

    /// Refuse a trust's key until the trust is enabled again
    Disable(Which),

    /// Accept the key of a disabled trust again
    Enable(Which),

    /// Give a trust a new API key and print it, once; the old key is refused from now on
    ///
    /// The key is the only thing on standard output, so that it can be piped to where secrets are
    /// kept.
    Rotate(Which),

    /// Delete a trust; its key is refused from now on
    Delete(Which),

    /// Read an API key from standard input and say whose it is
    ///
    /// Exits with 0 and the trust, or with 1 and the reason: missing, invalid, or unavailable (the
    /// database could not be asked). One newline at the end of the input is removed, nothing
    /// else. At a terminal, the key is asked for and not shown.
    Verify,

    /// Answer a proxy over HTTP whether a request may pass: 200 with the trust's identity, 401, or
    /// 503
    ///
    /// For nginx `auth_request`, Traefik ForwardAuth, Caddy `forward_auth` and Envoy's HTTP
    /// ext_authz, which ask /verify with the client's headers. Creates the database if it is
    /// missing, and changes no table that is there without --migrate. The first line of output
    /// tells the addresses and the settings. SIGTERM or Ctrl-C ends it when every answer that is
    /// owed is given; a second one, at once.
    Serve(Box<Settings>),

    /// Add to the database's tables what this version needs, such as columns and triggers
    ///
    /// For a table that another program made, one that was restored without its triggers, and after
    /// an update of this program. Makes the table where a database of PostgreSQL, or an empty
    /// SQLite file, has none. Rows, other columns and other programs' triggers stay as they are. On
    /// PostgreSQL it takes the table's owner. One transaction; where nothing is missing, it says
    /// so.
    Migrate(Migrate),

    /// Print a completion script for a shell
    ///
    /// For example: trust-auth completions bash >
    /// ~/.local/share/bash-completion/completions/trust-auth
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Register {
    /// The trust's name, which no other trust has
    #[arg(long)]
    pub(crate) name: String,

    /// A short code, such as an organisation's
    #[arg(long, value_parser = short_text)]
    pub(crate) code: Option<String>,

    /// The region
    #[arg(long, value_parser = short_text)]
    pub(crate) region: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The trust's name or id
    #[arg(value_name = "NAME_OR_ID")]
    pub(crate) trust: String,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Print the SQL that would run, and run nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}
