//! The command line: three options and the help.

use std::ops::RangeInclusive;

use lexopt::Arg::{Long, Short, Value};
use trust_auth::ApiKey;

/// The largest number of trusts.
pub(crate) const TRUSTS: RangeInclusive<u32> = 1..=100_000;
/// For how many seconds the traffic can run.
const SECONDS: RangeInclusive<u32> = 1..=3_600;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Shows under load that a revoked API key is refused.

Registers trusts (tenants that have API keys) in a temporary
SQLite file. Four tasks authenticate with the trusts' keys.
Meanwhile other tasks rotate, disable and delete trusts.
Every answer is checked. A grant for a key whose revocation
had returned is a failure. A refusal of a valid key is a
failure, too. Half of the time, each grant reads the trust's
row. Then none does: the trusts are held under a read lease.

Usage: trust-auth-demo [OPTIONS]

Options:
  --trusts COUNT     Trusts, 1 to 100000 [default: 1000]
  --seconds SECONDS  Traffic, 1 to 3600 s [default: 5]
  --json             Print one line of JSON, not a table
  -h, --help         Print this help

Exit codes: 0 all answers were right; 1 an answer was wrong,
no answer was judged, or the demo failed; 2 wrong usage;
130 interrupted.";

/// What to run, and how to report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// How many trusts to register.
    pub(crate) trusts: u32,
    /// For how many seconds the traffic runs.
    pub(crate) seconds: u32,
    /// Whether to report one line of JSON.
    pub(crate) json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { trusts: 1_000, seconds: 5, json: false }
    }
}

/// The settings of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Run the demo.
    Run(Options),
    /// Print the help.
    Help,
}

/// What is wrong with the command line, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    /// A number is missing, malformed or too small or large.
    #[error(
        "{option} needs a whole number from {} to {}, as in `{option} {}`",
        range.start(), range.end(), range.end().min(&200)
    )]
    Number { option: &'static str, range: RangeInclusive<u32> },
    /// An option that does not exist, or an argument where none is expected.
    #[error("unexpected {0}; `--help` lists the options")]
    Unexpected(String),
}

/// Reads the arguments. Of an option that is given twice, the last one counts.
pub(crate) fn parse(mut arguments: lexopt::Parser) -> Result<Request, UsageError> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next().map_err(unexpected)? {
        match argument {
            Long("trusts") => options.trusts = number(&mut arguments, "--trusts", TRUSTS)?,
            Long("seconds") => options.seconds = number(&mut arguments, "--seconds", SECONDS)?,
            Long("json") => options.json = true,
            Long("help") | Short('h') => return Ok(Request::Help),
            Long(_) | Short(_) | Value(_) => return Err(unexpected(argument.unexpected())),
        }
    }
    Ok(Request::Run(options))
}

fn number(
    arguments: &mut lexopt::Parser,
    option: &'static str,
    range: RangeInclusive<u32>,
) -> Result<u32, UsageError> {
    let value = arguments.value().ok().and_then(|value| value.to_str()?.parse().ok());
    value.filter(|value| range.contains(value)).ok_or(UsageError::Number { option, range })
}

/// Names the argument, unless the argument looks like an API key.
fn unexpected(error: lexopt::Error) -> UsageError {
    let named = match &error {
        lexopt::Error::UnexpectedOption(option) => format!("option `{option}`"),
        lexopt::Error::UnexpectedValue { option, .. } => format!("value for `{option}`"),
        _ => "argument".to_owned(),
    };
    if ApiKey::may_be_in(&named) {
        return UsageError::Unexpected("argument that looks like an API key".to_owned());
    }
    UsageError::Unexpected(named.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Request, UsageError> {
        parse(lexopt::Parser::from_args(arguments))
    }

    fn refused(arguments: &[&str]) -> String {
        parsed(arguments).unwrap_err().to_string()
    }

    #[test]
    fn options_take_their_value_in_both_forms() {
        let expected = Options { trusts: 200, seconds: 2, json: true };
        for arguments in [
            &["--trusts", "200", "--seconds", "2", "--json"][..],
            &["--json", "--seconds=2", "--trusts=200"],
        ] {
            assert_eq!(parsed(arguments), Ok(Request::Run(expected)));
        }
        assert_eq!(parsed(&[]), Ok(Request::Run(Options::default())));
        assert_eq!(parsed(&["--help"]), Ok(Request::Help));
        assert_eq!(parsed(&["--json", "-h"]), Ok(Request::Help));
    }

    #[test]
    fn wrong_usage_names_the_mistake_and_says_what_to_do() {
        assert_eq!(
            refused(&["--seconds", "0"]),
            "--seconds needs a whole number from 1 to 3600, as in `--seconds 200`"
        );
        assert_eq!(
            refused(&["--trusts"]),
            "--trusts needs a whole number from 1 to 100000, as in `--trusts 200`"
        );
        assert_eq!(
            refused(&["--bogus"]),
            "unexpected option `--bogus`; `--help` lists the options"
        );
        assert_eq!(
            refused(&["--json=yes"]),
            "unexpected value for `--json`; `--help` lists the options"
        );
        assert_eq!(refused(&["demo"]), "unexpected argument; `--help` lists the options");
    }

    #[test]
    fn no_key_that_was_given_as_an_argument_is_repeated() {
        let key = ApiKey::generate().unwrap();
        // One key in 64 begins with `h`: `-h` and anything after it asks for the help.
        let key = format!("K{}", &key.expose()[1..]);
        for arguments in [
            vec![key.clone()],
            vec![format!("--{key}")],
            vec![format!("-{key}")],
            vec![format!("--json={key}")],
            vec!["--trusts".to_owned(), key.clone()],
        ] {
            let error = parse(lexopt::Parser::from_args(&arguments)).unwrap_err().to_string();
            assert!(!error.contains(&key[1..]), "{arguments:?}");
        }
    }

    #[test]
    fn the_help_fits_60_columns() {
        assert!(HELP.lines().all(|line| line.chars().count() <= 60));
    }
}
