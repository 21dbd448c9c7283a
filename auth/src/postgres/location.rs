//! Which server and database a URL means. The driver logs parameters that it does not know, with their values, so none of
//! those reach it; what is shown of a URL has neither user nor password.

use std::fmt;
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::StoreError;

/// The parameters of a URL that mean to the driver what they mean to libpq.
const PARAMETERS: [&str; 13] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// How to reach a database, and how to name it.
#[derive(Clone)]
pub(super) struct Location {
    pub(super) options: PgConnectOptions,
    /// `postgres://host:port/database`.
    shown: String,
}

impl Location {
    /// Reads a URL of the scheme `postgres` or `postgresql`. What it leaves out comes from the environment, as for libpq: `PGHOST`,
    /// `PGUSER`, `PGPASSWORD`, the password file and so on.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(unsupported("it is no URL; give one such as `postgres://user@host/database`"));
        };
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(unsupported(
                "it has another scheme than `postgres:`; give a URL such as `postgres://user@host/database`",
            ));
        }
        if rest.contains('\0') || rest.contains("%00") {
            return Err(unsupported("it contains a NUL character; leave it out"));
        }
        let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let host = address.rsplit_once('@').map_or(address, |(_, host)| host);
        // The driver would take for the database's name, which is shown, what follows a `/` in a password, or all of a URL
        // without `//`; and for the end of the URL what follows a `#`.
        let path = match address.strip_prefix("//") {
            Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
            None => address,
        };
        if address.contains('#') || path.contains(['@', ':']) {
            return Err(unsupported(
                "its `//` is missing, or a character is not encoded; encode `@`, `:`, `/`, `?`, `#` and `%` in user, \
                 password and database with `%`",
            ));
        }
        if host.contains(',') {
            return Err(unsupported("it names several servers; give the one that is the primary"));
        }
        let parameters = parameters.split('&').filter(|parameter| !parameter.is_empty());
        let kept: Result<Vec<&str>, StoreError> =
            parameters.filter_map(|parameter| checked(parameter).transpose()).collect();
        let options = PgConnectOptions::from_str(&format!("postgres:{address}?{}", kept?.join("&")))
            .map_err(|_| {
                unsupported(
                    "it is not a valid URL; encode `@`, `/`, `?`, `#` and `%` in user and password with `%`, and \
                     check the values of its parameters",
                )
            })?
            // A slow statement is logged with its text by the driver, and nobody asked for it.
            .disable_statement_logging();
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("trust-auth"),
        };
        let shown = shown(&options);
        Ok(Self { options, shown })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The driver's options hold the password, and show it.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.shown).finish()
    }
}

/// A parameter for the driver; `None` for one that only says what is done anyway.
fn checked(parameter: &str) -> Result<Option<&str>, StoreError> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    if name == "target_session_attrs" {
        return match value {
            "primary" | "read-write" => Ok(None),
            _ => Err(unsupported(
                "trusts are read from the primary alone, since a replica shows revocations late; leave out \
                 `target_session_attrs`",
            )),
        };
    }
    let is_option = name.starts_with("options[") || name.to_ascii_lowercase().starts_with("options%5b");
    if is_option || PARAMETERS.contains(&name) {
        Ok(Some(parameter))
    } else {
        // It is not repeated: in a URL with an unencoded `?` it is a part of the password.
        Err(unsupported(&format!(
            "it has a parameter that is not understood; leave it out. These are: {}",
            PARAMETERS.join(", ")
        )))
    }
}

fn shown(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => options.get_host().to_owned(),
    };
    format!("postgres://{host}:{}/{database}", options.get_port())
}

fn unsupported(reason: &str) -> StoreError {
    StoreError::UnsupportedUrl { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(url: &str) -> String {
        let error = Location::parse(url).unwrap_err();
        assert_eq!(error.kind(), "unsupported_url");
        error.to_string()
    }

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        for url in [
            "postgres://admin:hunter2@db.example:5433/trusts",
            "postgresql://admin:hunter2@db.example:5433/trusts?sslmode=require",
            "postgres://db.example:5433/trusts?user=admin&password=hunter2&target_session_attrs=read-write",
        ] {
            let location = Location::parse(url).unwrap();
            assert_eq!(location.to_string(), "postgres://db.example:5433/trusts");
            assert_eq!(format!("{location:?}"), "Location(\"postgres://db.example:5433/trusts\")");
            let shown = format!("{location} {location:?} {location:#?}");
            assert!(!shown.contains("hunter2") && !shown.contains("admin"), "{shown}");
        }
        let socket = Location::parse("postgres://admin@%2Fvar%2Frun%2Fpostgresql/trusts").unwrap();
        assert!(socket.to_string().starts_with("postgres:///var/run/postgresql:"), "{socket}");
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_repeated() {
        assert!(refusal("trusts.db").contains("no URL"));
        assert!(refusal("mysql://admin:hunter2@db.example/trusts").contains("another scheme"));
        assert!(refusal("postgres://a,b/trusts").contains("several servers"));
        assert!(refusal("postgres://a/trusts?target_session_attrs=any").contains("replica"));
        assert!(refusal("postgres://a/trusts?sslmode=hunter2").contains("valid URL"));
        assert!(refusal("postgres://a:port/trusts").contains("valid URL"));
        assert!(refusal("postgres://a/tru\0sts").contains("NUL"));
        assert!(refusal("postgres://a/tru%00sts").contains("NUL"));
        for url in ["postgres://a/trusts?hunter2", "postgres://admin:hun?ter2=x@a/trusts"] {
            let message = refusal(url);
            assert!(message.contains("leave it out") && !message.contains("hun"), "{message}");
        }
    }

    #[test]
    fn the_servers_own_options_are_passed_on_in_either_spelling() {
        for spelling in ["options[geqo]=off", "options%5bgeqo%5d=off", "options%5Bgeqo%5D=off"] {
            assert_eq!(checked(spelling).unwrap(), Some(spelling));
        }
    }

    #[test]
    fn a_password_that_is_not_encoded_is_not_taken_for_a_name_that_is_shown() {
        for url in [
            "postgres://admin:/hunter2@db.example/trusts",
            "postgres://admin:5/hunter2@db.example/trusts",
            "postgres://admin:5#hunter2@db.example/trusts",
            "postgres:admin:hunter2@db.example/trusts",
            "postgres:/admin:hunter2@db.example/trusts",
            "postgres:///admin:hunter2@db.example/trusts",
        ] {
            let told = refusal(url);
            assert!(told.contains("encode") && !told.contains("hunter2"), "{told}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_location_or_an_error_that_does_not_repeat_it(
            secret in "[a-zA-Z0-9]{12,20}",
            text in "(postgres:|postgres://)?[a-z:/?@&=%,#. -]{0,20}",
        ) {
            for url in [format!("{text}{secret}"), format!("{secret}{text}"), format!("postgres://u:{secret}@{text}")] {
                if let Err(error) = Location::parse(&url) {
                    let told = format!("{error} {error:?}");
                    prop_assert!(!told.contains(&secret), "{}", told);
                }
            }
            for url in [
                format!("postgres://u:{secret}@{text}"),
                format!("postgres://u:5/{secret}@{text}"),
                format!("postgres:u:{secret}@{text}"),
            ] {
                if let Ok(location) = Location::parse(&url) {
                    let told = format!("{location} {location:?}");
                    prop_assert!(!told.contains(&secret), "{}", told);
                }
            }
        }
    }
}
