//! The command line: its commands and options, the texts of `--help`, and usage errors.
//!
//! No argument ever carries a key: other users of the machine can read a command line, and shells
//! keep it. A usage error never repeats what may be a key or a password.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use trust_auth::ApiKey;

use crate::command_answer::print_error;
use crate::database::DatabaseArgs;
use crate::key_digest::KeyDigest;
use crate::key_prefix::KeyPrefixArgs;
use crate::lifetime::Lifetime;
use crate::lower_read_lease::LongestLease;
use crate::new_trust;
use crate::pepper::PepperArgs;
use crate::serve::settings::Settings;
use crate::table_args::columns_apart;

const AFTER_HELP: &str = "\
A trust is a tenant that has an API key. A key is a prefix, such as `tak_`, with 49 letters and \
digits. `register` and `rotate` print the key once. The database holds its SHA-256, or its \
HMAC-SHA-256 with --pepper-file, and never the key.

Once `disable`, `delete` or `rotate` has returned, no server grants the old key. A server reads \
the row of the trust for each request. With --read-lease it reads none, and these commands wait \
for it.

With --json, standard output is exactly one line of JSON. A failure has \
{\"error\":{\"kind\":..,\"message\":..}}, and the new key if a rotation was committed.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 130 interrupted.

The demo is another program: `cargo run --release -p trust-auth-demo` in a clone of the project.";

/// Manages trusts, which are tenants with API keys, and checks keys
#[derive(Debug, Parser)]
#[command(name = "trust-auth", version, after_help = AFTER_HELP)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) options: GlobalOptions,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl CommandLine {
    /// Reads the arguments of the process.
    ///
    /// # Errors
    ///
    /// The exit code, once the help, the version or the mistake has been printed.
    pub(crate) fn read() -> Result<Self, ExitCode> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        if arguments.len() < 2 {
            // Without an effect if standard error is closed.
            let _ = writeln!(io::stderr(), "{}", Self::command().render_help());
            return Err(ExitCode::from(2));
        }
        let read = Self::command().try_get_matches_from(&arguments).and_then(|matches| {
            if let Some(message) = columns_apart(&arguments, &matches) {
                return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
            }
            Self::from_arg_matches(&matches)
        });
        read.map_err(|error| {
            match substitute(&error, &arguments) {
                Some(message) => print_error(message),
                None => {
                    // Without an effect if the stream is closed.
                    let _ = error.print();
                    if error.kind() == ErrorKind::UnknownArgument && is_for_verify(&arguments) {
                        let _ = writeln!(io::stderr(), "\n{VERIFY_READS_INPUT}.");
                    }
                }
            }
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        })
    }
}

const VERIFY_READS_INPUT: &str = "`verify` takes no key as an argument: it reads the key from \
                                  standard input; see `trust-auth verify --help`";

const WRONG_PREFIX: &str = "--key-prefix must have lower-case letters, digits and `_` alone, at \
                            most 20 of them, and end with `_`, such as `acme_`";

/// Returns what to print instead of clap's text, if that may repeat a key or a password.
///
/// clap quotes an argument that it does not expect, and a value that it cannot read.
fn substitute(error: &clap::Error, arguments: &[OsString]) -> Option<&'static str> {
    let shows_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || shows_help {
        return None;
    }
    if quoted(error, ContextKind::InvalidSubcommand) == Some("demo") {
        return Some(
            "the demo is a program of its own: run `cargo run --release -p trust-auth-demo` in a \
             clone of the project",
        );
    }
    if error.kind() == ErrorKind::ValueValidation
        && quoted(error, ContextKind::InvalidArg).is_some_and(|arg| arg.starts_with("--key-prefix"))
    {
        return Some(WRONG_PREFIX);
    }
    // `list KEY verify` may be a `verify` in the wrong order.
    let names_verify = arguments.iter().any(|argument| argument == "verify");
    if (names_verify || is_for_verify(arguments)) && may_quote_any_key(error, arguments) {
        return Some(VERIFY_READS_INPUT);
    }
    let text = error.to_string();
    let has_secret = ApiKey::may_be_in(&text) || text.contains("://") || text.contains("password=");
    has_secret.then_some(
        "wrong usage: an argument or a variable looks like an API key or a URL, and does not \
         belong there. This message does not repeat it, because it may be secret. `verify` reads \
         a key from standard input, and `--database` takes a URL. See `trust-auth --help`.",
    )
}

/// Returns whether the arguments are meant for `verify`, as far as clap can read them.
fn is_for_verify(arguments: &[OsString]) -> bool {
    let command = CommandLine::command().ignore_errors(true);
    let matches = command.try_get_matches_from(arguments);
    match matches.as_ref().ok().and_then(|matches| matches.subcommand_name()) {
        Some(name) => name == "verify",
        None => arguments.iter().any(|argument| argument == "verify"),
    }
}

/// Returns whether the error repeats a possible key: any argument or value except a flag. Another
/// program may have made the key, in any form.
fn may_quote_any_key(error: &clap::Error, arguments: &[OsString]) -> bool {
    let quoted = match error.kind() {
        ErrorKind::UnknownArgument => quoted(error, ContextKind::InvalidArg),
        ErrorKind::InvalidSubcommand => quoted(error, ContextKind::InvalidSubcommand),
        _ => quoted(error, ContextKind::InvalidValue),
    };
    // What follows `--` is never a flag.
    let may_be_a_flag = !arguments.iter().any(|argument| argument == "--");
    quoted.is_some_and(|text| {
        let is_flag = may_be_a_flag && has_form_of_a_flag(text);
        !text.is_empty() && !is_flag
    })
}

fn quoted(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}

/// Returns whether the text is two hyphens and a name of the form that flags have.
fn has_form_of_a_flag(text: &str) -> bool {
    text.strip_prefix("--").is_some_and(|name| {
        name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    })
}

/// The options that each command has.
#[derive(Debug, Args)]
pub(crate) struct GlobalOptions {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    /// Write one line of JSON instead of text
    #[arg(long, global = true, display_order = 106)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a trust and print its API key, once
    ///
    /// Only the key is written to standard output, so you can pipe it to where you keep secrets.
    /// With --key-sha256 or --key-file, the trust has a key already, and none is made or printed.
    /// Creates the database if it is missing.
    Register(RegisterArgs),

    /// List the trusts, sorted by name
    List(ListArgs),

    /// Add, list and revoke the keys of a trust
    ///
    /// A trust may have several keys, each with a label and an end. Each is accepted.
    #[command(subcommand)]
    Key(KeyCommand),

    /// Refuse the key of a trust until the trust is enabled again
    Disable(RevocationArgs),

    /// Accept the key of a disabled trust again
    Enable(TrustArgs),

    /// Replace all API keys of a trust by a new one and print it, once
    ///
    /// The old keys are refused from now on, or after the --overlap. To replace one of several
    /// keys, use `key add` and `key revoke`. A key without an id, which `register` and `rotate`
    /// make, can only be replaced with all others: the --overlap leaves time to replace these.
    /// Only the new key is written to standard output, so you can pipe it to where you keep
    /// secrets.
    Rotate(RotateArgs),

    /// Replace the attributes of a trust, such as its scopes, or remove them
    ///
    /// The attributes are replaced as a whole. Returns when no server shows the former ones: a
    /// scope that was taken away is gone everywhere.
    SetAttributes(AttributesArgs),

    /// Delete a trust; its key is refused from now on
    Delete(RevocationArgs),

    /// Read an API key from standard input and print the trust that has it
    ///
    /// Exits with 0 and prints the trust, or exits with 1 and prints the reason: missing, invalid,
    /// or unavailable (the database could not be read). Removes one newline at the end of the
    /// input, and nothing else. At a terminal, prompts for the key and does not echo it.
    Verify(KeyArgs),

    /// Serve HTTP: check the API key of each request that a proxy asks about
    ///
    /// For nginx `auth_request`, Traefik ForwardAuth, Caddy `forward_auth` and Envoy's HTTP
    /// ext_authz. The proxy sends the headers of the client to /verify. The answer is 200 with the
    /// id and the name of the trust, 401, or 503.
    ///
    /// Creates the database if it is missing. Changes an existing table only with --migrate. The
    /// first line of output has the addresses and the settings.
    ///
    /// SIGTERM or Ctrl-C stops the service once it has answered the requests that it has received.
    /// A second signal stops it at once.
    Serve(Box<Settings>),

    /// Add what this version needs to the tables of the database, such as columns and triggers
    ///
    /// For a table that another program made, for one that was restored without its triggers, and
    /// after an update of this program. Creates the table where a PostgreSQL database, or an empty
    /// SQLite file, has none. Keeps rows, other columns and the triggers of other programs.
    ///
    /// On PostgreSQL, run it as the owner of the table. It runs in one transaction. If nothing is
    /// missing, it changes nothing and reports that.
    Migrate(MigrateArgs),

    /// Lower how long a change may have to wait for servers with a read lease
    ///
    /// Restart each server with the shorter lease first. On SQLite this waits for the length that
    /// was the longest so far.
    LowerReadLease {
        /// The longest read lease from now on, such as 1s. On SQLite also `off`
        #[arg(value_name = "DURATION")]
        longest: LongestLease,
    },

    /// Print the OpenAPI document of the admin API
    ///
    /// The document is OpenAPI 3.1, as JSON. Generators make clients from it.
    Openapi,

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
pub(crate) struct RegisterArgs {
    /// The name of the trust. No two trusts have the same name
    #[arg(long)]
    pub(crate) name: String,

    /// A short code, such as the code of an organisation
    #[arg(long, value_parser = code_or_region)]
    pub(crate) code: Option<String>,

    /// The region
    #[arg(long, value_parser = code_or_region)]
    pub(crate) region: Option<String>,

    /// What the application stores about the trust, such as `{"scopes":["read"]}`. An object in
    /// JSON
    #[arg(long, value_name = "JSON", value_parser = attributes)]
    pub(crate) attributes: Option<serde_json::Value>,

    #[command(flatten)]
    pub(crate) existing: ExistingKeyArgs,

    #[command(flatten)]
    pub(crate) terms: TermsArgs,

    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// A key that exists already.
#[derive(Debug, Args)]
pub(crate) struct ExistingKeyArgs {
    /// The SHA-256, in hexadecimal, of the key that the trust has already. With --pepper-file only
    /// together with --accept-unpeppered, because no request with that key would be granted
    #[arg(long, value_name = "HEX", conflicts_with = "key_file")]
    pub(crate) key_sha256: Option<KeyDigest>,

    /// A file with the key that the trust has already, or `-` for standard input. Removes one
    /// newline at the end, and nothing else. At a terminal, `-` prompts for the key and does not
    /// echo it
    #[arg(long, value_name = "PATH")]
    pub(crate) key_file: Option<PathBuf>,
}

/// The terms of a key.
#[derive(Debug, Args)]
pub(crate) struct TermsArgs {
    /// What people call the key
    #[arg(long, value_name = "TEXT", value_parser = code_or_region)]
    pub(crate) label: Option<String>,

    /// How long the key lasts, such as 90d. It is refused after that. Without this option, it has
    /// no end
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires: Option<Lifetime>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// List only the trusts with a key that ends within this time, such as 14d, and those whose
    /// only keys have ended. Exits with 1 if there is one, so that a monitor notices. Also names
    /// each key that has ended within this time and is not revoked, whatever the exit code is
    #[arg(long, value_name = "DURATION")]
    pub(crate) expiring: Option<Lifetime>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Give a trust one more key and print it, once
    ///
    /// With --key-sha256 or --key-file, the key exists already, and none is made or printed.
    Add(KeyAddArgs),

    /// List the keys of a trust, also those that are revoked or at their end
    List(TrustArgs),

    /// Revoke one key of a trust; the others stay
    Revoke(KeyRevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct KeyAddArgs {
    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) existing: ExistingKeyArgs,

    #[command(flatten)]
    pub(crate) terms: TermsArgs,

    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KeyRevokeArgs {
    /// The id of the key, which `key list` shows
    #[arg(value_name = "KEY_ID")]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AttributesArgs {
    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    /// What the application stores about the trust from now on, such as `{"scopes":["read"]}`. An
    /// object in JSON, or `-` for standard input
    #[arg(
        value_name = "JSON",
        required_unless_present = "clear",
        conflicts_with = "clear",
        value_parser = attributes_or_input
    )]
    pub(crate) attributes: Option<AttributesArg>,

    /// Remove the attributes
    #[arg(long)]
    pub(crate) clear: bool,

    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// The attributes, or where they are.
#[derive(Clone, Debug)]
pub(crate) enum AttributesArg {
    Given(serde_json::Value),
    StandardInput,
}

fn attributes_or_input(text: &str) -> Result<AttributesArg, String> {
    match text {
        "-" => Ok(AttributesArg::StandardInput),
        text => attributes(text).map(AttributesArg::Given),
    }
}

/// Checks that the text is an object in JSON, and repeats nothing of it.
pub(crate) fn attributes(text: &str) -> Result<serde_json::Value, String> {
    if ApiKey::may_be_in(text) {
        return Err("it looks like an API key; leave it out, and rotate that key".to_owned());
    }
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(value),
        Ok(_) => Err("it is no object; write `{..}`".to_owned()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}

fn code_or_region(text: &str) -> Result<String, String> {
    new_trust::check_code_or_region(text).map(|()| text.to_owned())
}

/// The form of keys and of their digests.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(flatten)]
    pub(crate) prefix: KeyPrefixArgs,

    #[command(flatten)]
    pub(crate) pepper: PepperArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The name or the id of the trust
    #[arg(value_name = "NAME_OR_ID")]
    pub(crate) trust: String,
}

/// The arguments of a change that revokes a key.
#[derive(Debug, Args)]
pub(crate) struct RevocationArgs {
    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// How a change waits that revokes a key.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Return after the commit. A process with a read lease may then grant the key until its lease
    /// runs out. Without this flag, the command returns when no process grants the key
    #[arg(long)]
    pub(crate) no_wait: bool,

    /// Wait for the length of the longest read lease, and for no answer of the processes that hold
    /// one
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) no_acknowledgements: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) revocation: RevocationArgs,

    /// How long the old keys are still accepted, such as 24h. A key with an earlier end keeps it.
    /// Without this option, they are refused at once
    #[arg(long, value_name = "DURATION")]
    pub(crate) overlap: Option<Lifetime>,

    #[command(flatten)]
    pub(crate) terms: TermsArgs,

    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Print the SQL without running it
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// On PostgreSQL, also add the tables and triggers for `serve --read-lease`, and print the
    /// GRANTs that other roles need. On SQLite they are always added
    #[arg(long)]
    pub(crate) read_lease: bool,

    /// Also add the index on the digests for `serve --find-by index`. On PostgreSQL it is made
    /// outside of the transaction, and keeps no write out
    #[arg(long)]
    pub(crate) find_by_index: bool,
}
