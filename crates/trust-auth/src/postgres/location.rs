//! [`Location`]: which servers and which database a connection string means, as libpq means it.
//!
//! The source of a value is the connection string, or else its service, the environment, or a
//! default. The text of a location has neither user nor password.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connection_string::unsupported;
use super::environment::Environment;
use super::tls_settings::{SslMode, TlsSettings};
use super::values::Values;
use crate::error::StoreError;

const DEFAULT_PORT: u16 = 5432;

/// The folders where libpq, as Debian, Homebrew and upstream build it, searches for the server's
/// socket.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/private/tmp", "/tmp"];

/// The parameters of a connection string, resolved.
#[derive(Clone)]
pub(super) struct Location {
    /// In the order of trial. There is at least one.
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) database: String,
    /// The password of the connection string, the service or `PGPASSWORD`.
    pub(super) password: Option<String>,
    /// Whether the connection string itself has a password.
    pub(super) has_own_password: bool,
    /// The file of passwords that is read where there is no password.
    pub(super) passfile: Option<PathBuf>,
    pub(super) application_name: String,
    /// Settings for the session, as a command line of the server.
    pub(super) session_options: Option<String>,
    /// The limit for each host. Zero means no limit.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) tls: TlsSettings,
    /// `postgres://host:port/database`.
    shown: String,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// The name, the address, or the folder of the socket; empty where only `hostaddr` is given.
    pub(super) name: String,
    /// The address. With an address, the name is not looked up.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Host {
    /// Returns whether the server is reached by a socket of this machine.
    pub(super) fn is_socket(&self) -> bool {
        self.address.is_none() && self.name.starts_with(['/', '@'])
    }
}

impl Location {
    /// Reads a connection string and the environment.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`] names the parameter or the variable, and never repeats its
    /// value.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        Self::resolve(text, &Environment::of_this_process()?)
    }

    fn resolve(text: &str, environment: &Environment) -> Result<Self, StoreError> {
        let values = Values::read(text, environment)?;
        let hosts = hosts(&values)?;
        let tls = TlsSettings::of(&values, environment)?;
        if tls.mode == SslMode::VerifyFull && hosts.iter().any(|host| host.name.is_empty()) {
            return Err(values.wrong(
                "hostaddr",
                "`sslmode=verify-full` compares the certificate with the server's name; give \
                 `host`, too",
            ));
        }
        let user = match (values.text("user"), &environment.user) {
            (Some(user), _) => user.to_owned(),
            (None, Some(user)) => user.clone(),
            (None, None) => {
                return Err(unsupported(
                    "it has no user, and the operating system has no name for the user of this \
                     process; give the user",
                ));
            }
        };
        let database = values.text("dbname").unwrap_or(&user).to_owned();
        let name = values.text("application_name").or(values.text("fallback_application_name"));
        let shown = shown(&hosts, &database);
        Ok(Self {
            hosts,
            database,
            password: values.text("password").map(str::to_owned),
            has_own_password: values.is_in_text("password"),
            passfile: values.path("passfile").or_else(|| environment.in_home(".pgpass")),
            application_name: name.unwrap_or("trust-auth").to_owned(),
            session_options: values.session_options(environment)?,
            connect_timeout: connect_timeout(&values)?,
            tls,
            user,
            shown,
        })
    }
}

impl Location {
    /// Returns the location of a server that is reached by the options of an application's pool.
    pub(super) fn of_parts(host: Host, user: &str, database: &str, application_name: &str) -> Self {
        let hosts = vec![host];
        Self {
            shown: shown(&hosts, database),
            hosts,
            user: user.to_owned(),
            database: database.to_owned(),
            password: None,
            has_own_password: false,
            passfile: None,
            application_name: application_name.to_owned(),
            session_options: None,
            connect_timeout: None,
            tls: TlsSettings::UNUSED,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Leaves the password out.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.shown).finish()
    }
}

fn hosts(values: &Values) -> Result<Vec<Host>, StoreError> {
    let (names, addresses, ports) =
        (values.list("host"), values.list("hostaddr"), values.list("port"));
    let count = names.len().max(addresses.len()).max(1);
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(values.wrong("hostaddr", "give one address for each host"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(values.wrong("port", "give one port, or one for each host"));
    }
    let host = |index: usize| {
        let address = match addresses.get(index).copied().unwrap_or_default() {
            "" => None,
            address => {
                Some(address.parse().map_err(|_| values.wrong("hostaddr", "give an IP address"))?)
            }
        };
        let port = match ports.get(index).or(ports.first()).map(|port| port.trim()) {
            None | Some("") => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(values.wrong("port", "give a number from 1 to 65535")),
            },
        };
        let name = match (names.get(index).copied().unwrap_or_default(), address) {
            ("", None) => default_socket_folder(port),
            (name, _) => name.to_owned(),
        };
        Ok(Host { name, address, port })
    };
    (0..count).map(host).collect()
}

/// Returns the first folder with a socket for this port, or else the first folder that exists.
fn default_socket_folder(port: u16) -> String {
    let has_socket = |folder: &&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    let mut folders = SOCKET_FOLDERS.into_iter();
    let found = folders
        .clone()
        .find(has_socket)
        .or_else(|| folders.find(|folder| Path::new(folder).exists()));
    found.unwrap_or("/tmp").to_owned()
}

fn connect_timeout(values: &Values) -> Result<Option<Duration>, StoreError> {
    // An empty value is refused, as libpq refuses it.
    let Some(seconds) = values.given("connect_timeout") else { return Ok(None) };
    let seconds: i32 = seconds
        .trim()
        .parse()
        .map_err(|_| values.wrong("connect_timeout", "give a whole number of seconds"))?;
    // libpq waits two seconds at least, and without limit for zero and less.
    Ok(Some(Duration::from_secs(match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => seconds.max(2),
        _ => 0,
    })))
}

fn shown(hosts: &[Host], database: &str) -> String {
    let servers = hosts.iter().map(|Host { name, address, port }| match address {
        Some(address) if name.is_empty() => format!("{address}:{port}"),
        _ => format!("{name}:{port}"),
    });
    format!("postgres://{}/{database}", servers.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parameters::{PARAMETERS, Support};
    use super::super::tls_settings::Roots;
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
            "postgres://db.example:5433/trusts?user=admin&password=hunter2\
             &target_session_attrs=read-write",
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
        assert!(refusal("postgres://a/trusts?target_session_attrs=any").contains("replica"));
        assert!(refusal("postgres://a/trusts?sslmode=hunter2").contains("`sslmode`"));
        assert!(refusal("postgres://a:hunter2/trusts").contains("`port`"));
        assert!(refusal("postgres://a/trusts?port=1,2").contains("`port`"));
        assert!(refusal("postgres://a/trusts?hostaddr=hunter2").contains("`hostaddr`"));
        assert!(refusal("postgres://a/trusts?hostaddr=::1,::2").contains("`hostaddr`"));
        assert!(
            refusal("postgres://a/trusts?connect_timeout=hunter2").contains("`connect_timeout`")
        );
        assert!(refusal("postgres:///trusts?hostaddr=::1&sslmode=verify-full").contains("`host`"));
        assert!(
            refusal("postgres://a/trusts?sslrootcert=system&sslmode=require")
                .contains("verify-full")
        );
        assert!(refusal("postgres://a/tru\0sts").contains("NUL"));
        assert!(refusal("postgres://a/tru%00sts").contains("NUL"));
        for url in ["postgres://a/trusts?hunter2", "postgres://a/trusts?hunter2=x"] {
            let message = refusal(url);
            assert!(message.contains("leave it out") && !message.contains("hun"), "{message}");
        }
    }

    fn resolved(text: &str, variables: &[(&str, &str)]) -> Result<Location, StoreError> {
        let variables =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let environment =
            Environment { variables, home: Some("/home/me".into()), user: Some("me".into()) };
        Location::resolve(text, &environment)
    }

    #[test]
    fn the_servers_own_options_are_passed_on_in_either_spelling() {
        for spelling in
            ["options[geqo]=a b", "options%5bgeqo%5d=a%20b", "options=-c%20geqo%3Da%5C%20b"]
        {
            let location = resolved(&format!("postgres://a/b?{spelling}"), &[]).unwrap();
            assert_eq!(location.session_options.as_deref(), Some(r"-c geqo=a\ b"));
        }
        let both =
            resolved("postgres://a/b?options[x]=1&options=-c%20z%3D3&options[y]=2", &[]).unwrap();
        assert_eq!(both.session_options.as_deref(), Some("-c z=3 -c x=1 -c y=2"));
    }

    #[test]
    fn what_a_connection_string_leaves_out_comes_from_the_environment_and_the_system() {
        let location = resolved("postgres://", &[]).unwrap();
        assert_eq!((location.user.as_str(), location.database.as_str()), ("me", "me"));
        assert!(location.hosts[0].is_socket() && location.hosts[0].port == 5432);
        assert_eq!(location.passfile.as_deref(), Some(Path::new("/home/me/.pgpass")));
        assert_eq!(location.tls.roots, Roots::DefaultFile("/home/me/.postgresql/root.crt".into()));
        assert_eq!((location.tls.mode, location.connect_timeout), (SslMode::Prefer, None));
        assert_eq!(location.application_name, "trust-auth");

        let variables = [
            ("PGHOST", "x"),
            ("PGHOSTADDR", "::1"),
            ("PGPORT", "7"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "p"),
            ("PGSSLMODE", "require"),
            ("PGCONNECT_TIMEOUT", "1"),
            ("PGAPPNAME", "n"),
        ];
        let location = resolved("user=v", &variables).unwrap();
        assert_eq!(location.to_string(), "postgres://x:7/v");
        assert_eq!(location.hosts[0].address, Some("::1".parse().unwrap()));
        assert_eq!(location.connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!((location.password.as_deref(), location.has_own_password), (Some("p"), false));
        assert_eq!((location.tls.mode, &*location.application_name), (SslMode::Require, "n"));
        assert!(resolved("postgres://u:q@h", &variables).unwrap().has_own_password);
    }

    #[test]
    fn several_hosts_have_a_port_each_or_one_for_all() {
        let hosts = |text: &str| {
            let hosts = resolved(text, &[]).unwrap().hosts;
            hosts.into_iter().map(|host| format!("{}:{}", host.name, host.port)).collect::<Vec<_>>()
        };
        assert_eq!(hosts("postgres://a:1,b,[::1]:3/d"), ["a:1", "b:5432", "::1:3"]);
        assert_eq!(hosts("host=a,b port=7 dbname=d"), ["a:7", "b:7"]);
    }

    #[test]
    fn a_parameter_that_psql_takes_and_this_store_does_not_is_named_and_its_value_is_not() {
        for parameter in PARAMETERS {
            let told = |origin: &str, outcome: Result<Location, StoreError>| {
                let told = outcome.unwrap_err().to_string();
                assert!(told.contains(origin) && !told.contains("hunter2"), "{told}");
            };
            if matches!(parameter.support, Support::Taken) {
                continue;
            }
            let name = parameter.name;
            told(&format!("`{name}`"), resolved(&format!("postgres://a/b?{name}=hunter2"), &[]));
            told(&format!("`{name}`"), resolved(&format!("host=a {name}=hunter2"), &[]));
            if let Some(variable) = parameter.variable {
                told(
                    &format!("`{variable}`"),
                    resolved("postgres://a/b", &[(variable, "hunter2")]),
                );
            }
        }
    }

    #[test]
    fn a_password_that_is_not_encoded_is_not_taken_for_a_name_that_is_shown() {
        for url in [
            "postgres://admin:/hunter2@db.example/trusts",
            "postgres://admin:5/hunter2@db.example/trusts",
            "postgres://admin:p@hunter2@db.example/trusts",
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
            let as_password = format!("postgres://u:{secret}@{text}");
            for url in [format!("{text}{secret}"), format!("{secret}{text}"), as_password] {
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
