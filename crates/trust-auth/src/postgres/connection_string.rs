//! The two forms of a connection string, read as libpq reads them: a URL, and `key=value` pairs.
//!
//! This module splits and decodes text, and does not interpret parameters. No error repeats the
//! text, which may contain a password.

use percent_encoding::percent_decode_str;

use crate::error::StoreError;

/// A parameter's name and value, in the order of the text.
pub(super) type Pairs = Vec<(String, String)>;

const ENCODE: &str = "its `//` is missing, or a character is not encoded; encode `@`, `:`, `/`, \
                      `?`, `#` and `%` in user, password and database with `%`";

/// Splits a connection string.
///
/// # Errors
///
/// [`StoreError::UnsupportedUrl`] if the text has neither form.
pub(super) fn parse(text: &str) -> Result<Pairs, StoreError> {
    if text.contains('\0') {
        return Err(unsupported("it contains a NUL character; leave it out"));
    }
    if let Some(rest) =
        ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme))
    {
        return url(rest);
    }
    if text.starts_with("postgres:") || text.starts_with("postgresql:") {
        return Err(unsupported(ENCODE));
    }
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    if !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
    {
        return Err(unsupported(
            "it has another scheme than `postgres:`; give a URL such as \
             `postgres://user@host/database`",
        ));
    }
    if !text.contains('=') {
        return Err(unsupported("it is no URL; give one such as `postgres://user@host/database`"));
    }
    key_values(text)
}

/// Splits what follows `postgres://`:
/// `[user[:password]@][host[:port],...][/database][?name=value&...]`.
fn url(rest: &str) -> Result<Pairs, StoreError> {
    let mut pairs = Pairs::new();
    // The user and the password end at the first `@`, if no `/` precedes it.
    let (credentials, rest) = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => (&rest[..at], &rest[at + 1..]),
        _ => ("", rest),
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (servers, database) = rest.split_once('/').unwrap_or((rest, ""));
    // libpq would read the end of an unencoded password as a host or a database. Errors and logs
    // show hosts and databases.
    if servers.contains('@') || database.contains(['@', ':']) {
        return Err(unsupported(ENCODE));
    }
    let (hosts, ports) = hosts(servers)?;
    for (name, value) in [
        ("user", user),
        ("password", password),
        ("host", &hosts),
        ("port", &ports),
        ("dbname", database),
    ] {
        if !value.is_empty() {
            pairs.push((name.into(), decoded(value)?));
        }
    }
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if value.contains('=') {
            return Err(unsupported(
                "a parameter has a second `=`; encode a `=` in a value as `%3D`",
            ));
        }
        let (name, value) = (decoded(name)?, decoded(value)?);
        match (&*name, &*value) {
            ("ssl", "true") => pairs.push(("sslmode".into(), "require".into())),
            _ => pairs.push((name, value)),
        }
    }
    Ok(pairs)
}

/// Splits `host:port,[address]:port` into the list of hosts and the list of ports, as libpq's
/// parameters `host` and `port` take them.
fn hosts(servers: &str) -> Result<(String, String), StoreError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for server in servers.split(',') {
        let (host, port) = match server.strip_prefix('[') {
            Some(literal) => {
                let Some((host, port)) = literal.split_once(']') else {
                    return Err(unsupported("an IPv6 address in it has no `]`; add it"));
                };
                if host.is_empty() || !(port.is_empty() || port.starts_with(':')) {
                    return Err(unsupported(
                        "an IPv6 address in it is malformed; write `[address]:port`",
                    ));
                }
                (host, port.trim_start_matches(':'))
            }
            None => server.split_once(':').unwrap_or((server, "")),
        };
        hosts.push(host);
        ports.push(port);
    }
    let list = |entries: Vec<&str>| {
        if entries.iter().all(|entry| entry.is_empty()) { String::new() } else { entries.join(",") }
    };
    Ok((list(hosts), list(ports)))
}

/// Decodes `%XX`. Refuses a `%` without two digits and a NUL, as libpq does, and text that is not
/// UTF-8.
fn decoded(text: &str) -> Result<String, StoreError> {
    let malformed = text.split('%').skip(1).any(|rest| {
        let digits = rest.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if malformed {
        return Err(unsupported(
            "it is not a valid URL: a `%` has no two hexadecimal digits; encode `%` as `%25`",
        ));
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| {
        unsupported("it is not a valid URL: what is encoded in it is no UTF-8; encode UTF-8")
    })?;
    if decoded.contains('\0') {
        return Err(unsupported("it contains a NUL character; leave it out"));
    }
    Ok(decoded.into_owned())
}

/// Splits `name = value name='value with spaces'`. A backslash keeps the next character as it is.
fn key_values(text: &str) -> Result<Pairs, StoreError> {
    let mut pairs = Pairs::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|character| character.is_ascii_whitespace()).is_some() {}
        if characters.peek().is_none() {
            return Ok(pairs);
        }
        let mut name = String::new();
        while let Some(character) =
            characters.next_if(|next| *next != '=' && !next.is_ascii_whitespace())
        {
            name.push(character);
        }
        while characters.next_if(|character| character.is_ascii_whitespace()).is_some() {}
        if characters.next() != Some('=') {
            return Err(unsupported(
                "a parameter has no `=` and value; write `name=value`, and quote a value with \
                 spaces as 'value'",
            ));
        }
        while characters.next_if(|character| character.is_ascii_whitespace()).is_some() {}
        let quoted = characters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match characters.next() {
                Some('\\') => value.extend(characters.next()),
                Some('\'') if quoted => break,
                None if quoted => {
                    return Err(unsupported("a quoted value in it has no end; add the `'`"));
                }
                None => break,
                Some(character) if !quoted && character.is_ascii_whitespace() => break,
                Some(character) => value.push(character),
            }
        }
        pairs.push((name, value));
    }
}

pub(super) fn unsupported(reason: &str) -> StoreError {
    StoreError::UnsupportedUrl { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn expected(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_url_is_split_and_decoded() {
        assert_eq!(
            pairs("postgres://me:p%40ss@[::1]:5,b/d%20b?application_name=x%26y&ssl=true"),
            expected(&[
                ("user", "me"),
                ("password", "p@ss"),
                ("host", "::1,b"),
                ("port", "5,"),
                ("dbname", "d b"),
                ("application_name", "x&y"),
                ("sslmode", "require"),
            ])
        );
        assert_eq!(pairs("postgres://"), []);
        assert_eq!(
            pairs("postgresql:///db?host=/run"),
            expected(&[("dbname", "db"), ("host", "/run")])
        );
        assert_eq!(pairs("postgres://%2Frun/db"), expected(&[("host", "/run"), ("dbname", "db")]));
        let password = "postgres://u:a#b?c@h";
        assert_eq!(
            pairs(password),
            expected(&[("user", "u"), ("password", "a#b?c"), ("host", "h")])
        );
    }

    #[test]
    fn key_value_pairs_are_split_and_unquoted() {
        assert_eq!(
            pairs(r" host = /run  dbname='it is' user=a\ b password='\\\'' options="),
            expected(&[
                ("host", "/run"),
                ("dbname", "it is"),
                ("user", "a b"),
                ("password", r"\'"),
                ("options", ""),
            ])
        );
        for malformed in ["host=a dbname", "host='a", "host=a b c=d"] {
            assert!(parse(malformed).is_err(), "{malformed}");
        }
    }
}
