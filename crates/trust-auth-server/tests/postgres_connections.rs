//! One table of connection strings, environments and password files, each tried with `psql` and
//! with `trust-auth`.
//!
//! Both must connect, or both must be refused. Some rows have a parameter that `psql` accepts and
//! this project refuses by name.

#[path = "../../trust-auth/tests/postgres_server/mod.rs"]
mod postgres_server;

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tempfile::TempDir;
use trust_auth::{NewTrust, PostgresStore, TrustKeyCache, TrustLedger, TrustRegistry};

use self::Expected::{ByName, Connect, Refused};
use self::postgres_server::{PASSWORD, PostgresServer};

/// The right outcome of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Both connect.
    Connect,
    /// Both are refused.
    Refused,
    /// `psql` connects. This project refuses, with a message that has all of these words, which
    /// spaces separate.
    ByName(&'static str),
}

/// The name of the row, the connection string, the environment as `NAME=value` separated by spaces,
/// and the right outcome.
///
/// In each of these, `PORT` is the server's port, `RUN` the folder of its socket, and `%2FRUN` the
/// same for a URL's host. `FILES` is a folder with the files that `Fixture::make_files` makes.
/// `HOME` is an empty folder unless the row sets it.
type Row = (&'static str, &'static str, &'static str, Expected);

const BASE: &str = "postgres://scram:pw@127.0.0.1:PORT/trusts";

const TABLE: &[Row] = &[
    // URLs.
    ("a URL", "BASE", "", Connect),
    ("the other scheme", "postgresql://scram:pw@127.0.0.1:PORT/trusts", "", Connect),
    ("a wrong password", "postgres://scram:wrong@127.0.0.1:PORT/trusts", "", Refused),
    ("no password", "postgres://scram@127.0.0.1:PORT/trusts", "", Refused),
    ("no such database", "postgres://scram:pw@127.0.0.1:PORT/nowhere", "", Refused),
    (
        "encoded parts",
        "postgres://od%20d%40%3A%2F%3F%23:p%40%3A%2F%3F%23%25@127.0.0.1:PORT/d%20b%2F%40",
        "",
        Connect,
    ),
    ("an encoded host", "postgres://scram:pw@%6C%6Fcalhost:PORT/trusts", "", Connect),
    (
        "a password with # and ? as they are",
        "postgres://od%20d%40%3A%2F%3F%23:p%40%3A%2F?#%25@127.0.0.1:PORT/trusts",
        "",
        Connect,
    ),
    ("a malformed encoding", "postgres://scram:p%w@127.0.0.1:PORT/trusts", "", Refused),
    ("an IPv6 literal", "postgres://scram:pw@[::1]:PORT/trusts", "", Connect),
    ("an IPv6 literal without end", "postgres://scram:pw@[::1:PORT/trusts", "", Refused),
    ("the database is named as the user", "postgres://scram:pw@127.0.0.1:PORT", "", Connect),
    (
        "parameters for the parts",
        "postgres:///?host=127.0.0.1&port=PORT&user=scram&password=pw&dbname=trusts",
        "",
        Connect,
    ),
    ("an unknown parameter", "BASE?nonsense=1", "", Refused),
    ("a port that is none", "postgres://scram:pw@127.0.0.1:x/trusts", "", Refused),
    // Pairs.
    ("pairs", "host=127.0.0.1 port=PORT dbname=trusts user=scram password=pw", "", Connect),
    (
        "quoted pairs",
        r"host = '127.0.0.1' port=PORT dbname='d b/@' user='od d@:/?#' password=p@:/\?#%",
        "",
        Connect,
    ),
    ("a pair without value", "host=127.0.0.1 port", "", Refused),
    // Several servers, addresses, time.
    (
        "the second of two servers",
        "postgres://scram:pw@127.0.0.1:1,127.0.0.1:PORT/trusts",
        "",
        Connect,
    ),
    (
        "one port for two servers",
        "host=localhost,127.0.0.1 port=PORT dbname=trusts user=scram password=pw",
        "",
        Connect,
    ),
    (
        "more ports than servers",
        "host=127.0.0.1 port=PORT,1 dbname=trusts user=scram password=pw",
        "",
        Refused,
    ),
    (
        "an address next to a name",
        "postgres://scram:pw@nowhere.invalid:PORT/trusts?hostaddr=127.0.0.1",
        "",
        Connect,
    ),
    (
        "an address without a name",
        "postgres://scram:pw@:PORT/trusts?hostaddr=127.0.0.1",
        "",
        Connect,
    ),
    ("a name for an address", "postgres://scram:pw@:PORT/trusts?hostaddr=localhost", "", Refused),
    ("a time limit", "BASE?connect_timeout=20", "", Connect),
    ("a time limit that is none", "BASE?connect_timeout=soon", "", Refused),
    ("the primary", "BASE?target_session_attrs=read-write", "", Connect),
    ("any server", "BASE?target_session_attrs=any", "", ByName("`target_session_attrs`")),
    // Sockets.
    (
        "a socket's folder as a parameter",
        "postgres://scram:pw@/trusts?host=RUN&port=PORT",
        "",
        Connect,
    ),
    ("a socket's folder as the host", "postgres://scram:pw@%2FRUN:PORT/trusts", "", Connect),
    ("a socket and the system's user", "postgres:///trusts?host=RUN&port=PORT", "", Connect),
    ("a socket, the system's user, its database", "host=RUN port=PORT", "", Connect),
    ("a socket that wants another user", "postgres://peer@/trusts?host=RUN&port=PORT", "", Refused),
    (
        "a socket has no TLS to require",
        "postgres://scram:pw@/trusts?host=RUN&port=PORT&sslmode=require",
        "",
        Connect,
    ),
    (
        "a socket has no certificate to verify",
        "postgres://scram:pw@/trusts?host=RUN&port=PORT&sslmode=verify-full",
        "",
        Connect,
    ),
    ("a socket of another port", "postgres://scram:pw@/trusts?host=RUN&port=1", "", Refused),
    // TLS.
    ("no TLS", "BASE?sslmode=disable", "", Connect),
    ("TLS allowed", "BASE?sslmode=allow", "", Connect),
    ("TLS preferred", "BASE?sslmode=prefer", "", Connect),
    ("TLS required", "BASE?sslmode=require", "", Connect),
    ("TLS in JDBC's words", "BASE?ssl=true", "", Connect),
    ("a mode that is none", "BASE?sslmode=maybe", "", Refused),
    (
        "required by the server, disabled",
        "postgres://tlsonly:pw@127.0.0.1:PORT/trusts?sslmode=disable",
        "",
        Refused,
    ),
    (
        "required by the server, allowed",
        "postgres://tlsonly:pw@127.0.0.1:PORT/trusts?sslmode=allow",
        "",
        Connect,
    ),
    (
        "required by the server, preferred",
        "postgres://tlsonly:pw@127.0.0.1:PORT/trusts",
        "",
        Connect,
    ),
    (
        "refused by the server, preferred",
        "postgres://plainonly:pw@127.0.0.1:PORT/trusts",
        "",
        Connect,
    ),
    (
        "refused by the server, required",
        "postgres://plainonly:pw@127.0.0.1:PORT/trusts?sslmode=require",
        "",
        Refused,
    ),
    (
        "required with the right authority",
        "BASE?sslmode=require&sslrootcert=FILES/ca.crt",
        "",
        Connect,
    ),
    (
        "required with another authority",
        "BASE?sslmode=require&sslrootcert=FILES/other.crt",
        "",
        Refused,
    ),
    (
        "preferred with another authority",
        "BASE?sslmode=prefer&sslrootcert=FILES/other.crt",
        "",
        Connect,
    ),
    (
        "preferred with another authority, where TLS is required",
        "postgres://tlsonly:pw@127.0.0.1:PORT/trusts?sslrootcert=FILES/other.crt",
        "",
        Refused,
    ),
    (
        "another authority in the system's place",
        "BASE?sslmode=verify-ca&sslrootcert=FILES/other.crt",
        "SSL_CERT_FILE=FILES/ca.crt",
        Refused,
    ),
    ("the chain is verified", "BASE?sslmode=verify-ca&sslrootcert=FILES/ca.crt", "", Connect),
    (
        "the chain is not verified by another authority",
        "BASE?sslmode=verify-ca&sslrootcert=FILES/other.crt",
        "",
        Refused,
    ),
    (
        "the name is verified",
        "postgres://scram:pw@localhost:PORT/trusts?sslmode=verify-full&sslrootcert=FILES/ca.crt",
        "",
        Connect,
    ),
    ("the name is another", "BASE?sslmode=verify-full&sslrootcert=FILES/ca.crt", "", Refused),
    (
        "the name is verified, not the address",
        "postgres://scram:pw@localhost:PORT/trusts?hostaddr=127.0.0.1&sslmode=verify-full\
         &sslrootcert=FILES/ca.crt",
        "",
        Connect,
    ),
    (
        "an address has no name to verify",
        "postgres://scram:pw@:PORT/trusts?hostaddr=127.0.0.1&sslmode=verify-full\
         &sslrootcert=FILES/ca.crt",
        "",
        Refused,
    ),
    ("no authority", "BASE?sslmode=verify-ca", "", Refused),
    (
        "an authority that is not there",
        "BASE?sslmode=verify-ca&sslrootcert=FILES/nothing",
        "",
        Refused,
    ),
    (
        "an authority that is not there, and not needed",
        "BASE?sslmode=require&sslrootcert=FILES/nothing",
        "",
        ByName("`sslrootcert`"),
    ),
    ("the default file of authorities", "BASE?sslmode=verify-ca", "HOME=FILES/right", Connect),
    (
        "the default file of authorities has another",
        "BASE?sslmode=require",
        "HOME=FILES/wrong",
        Refused,
    ),
    (
        "a client's certificate",
        "postgres://certuser@127.0.0.1:PORT/trusts?sslmode=require&sslcert=FILES/client.crt\
         &sslkey=FILES/client.key",
        "",
        Connect,
    ),
    (
        "no client's certificate",
        "postgres://certuser@127.0.0.1:PORT/trusts?sslmode=require",
        "",
        Refused,
    ),
    (
        "a client's key that others can read",
        "postgres://certuser@127.0.0.1:PORT/trusts?sslmode=require&sslcert=FILES/client.crt\
         &sslkey=FILES/open.key",
        "",
        Refused,
    ),
    (
        "a client's certificate without key",
        "postgres://certuser@127.0.0.1:PORT/trusts?sslmode=require&sslcert=FILES/client.crt",
        "",
        Refused,
    ),
    (
        "the default client's certificate",
        "postgres://certuser@127.0.0.1:PORT/trusts?sslmode=verify-ca",
        "HOME=FILES/right",
        Connect,
    ),
    (
        "a client's certificate that is not there",
        "BASE?sslmode=require&sslcert=FILES/nothing&sslkey=FILES/nothing",
        "",
        Connect,
    ),
    ("TLS 1.2 at least", "BASE?sslmode=require&ssl_min_protocol_version=TLSv1.2", "", Connect),
    (
        "TLS 1.3 at least",
        "BASE?sslmode=require&ssl_min_protocol_version=TLSv1.3",
        "",
        ByName("`ssl_min_protocol_version`"),
    ),
    ("a revocation list", "BASE?sslcrl=FILES/nothing", "", ByName("`sslcrl`")),
    (
        "the login bound to the channel",
        "BASE?channel_binding=require",
        "",
        ByName("`channel_binding` verify-full"),
    ),
    ("the login bound if it can be", "BASE?channel_binding=prefer", "", Connect),
    // The environment.
    (
        "all from the environment",
        "postgres://",
        "PGHOST=127.0.0.1 PGPORT=PORT PGUSER=scram PGPASSWORD=pw PGDATABASE=trusts",
        Connect,
    ),
    (
        "the environment's address",
        "postgres://scram:pw@nowhere.invalid/trusts",
        "PGHOSTADDR=127.0.0.1 PGPORT=PORT",
        Connect,
    ),
    (
        "the environment's socket, for an empty host",
        "postgres://scram:pw@/trusts",
        "PGHOST=RUN PGPORT=PORT",
        Connect,
    ),
    (
        "an address, and the environment's socket",
        "dbname=trusts user=scram password=pw hostaddr=127.0.0.1 port=PORT",
        "PGHOST=RUN",
        Connect,
    ),
    (
        "an address, and a socket for its name",
        "dbname=trusts user=scram password=pw hostaddr=127.0.0.1 port=PORT \
         sslmode=verify-full sslrootcert=FILES/ca.crt",
        "PGHOST=RUN",
        Refused,
    ),
    (
        "the URL overrides the environment",
        "BASE",
        "PGHOST=nowhere.invalid PGPORT=1 PGUSER=x PGPASSWORD=x PGDATABASE=x",
        Connect,
    ),
    (
        "the environment's authority",
        "BASE",
        "PGSSLMODE=require PGSSLROOTCERT=FILES/other.crt",
        Refused,
    ),
    (
        "the environment's certificate",
        "postgres://certuser@127.0.0.1:PORT/trusts",
        "PGSSLMODE=require PGSSLCERT=FILES/client.crt PGSSLKEY=FILES/client.key",
        Connect,
    ),
    (
        "the old word for TLS",
        "postgres://plainonly:pw@127.0.0.1:PORT/trusts",
        "PGREQUIRESSL=1",
        Refused,
    ),
    ("the environment's time limit", "BASE", "PGCONNECT_TIMEOUT=20", Connect),
    ("an empty time limit", "BASE?connect_timeout=", "", Refused),
    ("the environment's settings", "BASE", "PGOPTIONS=-cgeqo=off", Connect),
    ("settings that do not exist", "BASE", "PGOPTIONS=-cgeqo=maybe", Refused),
    ("the environment's name of the program", "BASE", "PGAPPNAME=x", Connect),
    (
        "a replica by the environment",
        "BASE",
        "PGTARGETSESSIONATTRS=any",
        ByName("`PGTARGETSESSIONATTRS`"),
    ),
    (
        "a revocation list by the environment",
        "BASE",
        "PGSSLCRL=FILES/nothing",
        ByName("`PGSSLCRL`"),
    ),
    (
        "the login bound by the environment",
        "BASE",
        "PGCHANNELBINDING=require",
        ByName("`PGCHANNELBINDING`"),
    ),
    // Password files.
    (
        "the default password file",
        "postgres://scram@127.0.0.1:PORT/trusts",
        "HOME=FILES/right",
        Connect,
    ),
    (
        "the default password file for a socket",
        "postgres://scram@/trusts?host=RUN&port=PORT",
        "HOME=FILES/right",
        Connect,
    ),
    (
        "the password file of the environment",
        "postgres://scram@127.0.0.1:PORT/trusts",
        "PGPASSFILE=FILES/passfile",
        Connect,
    ),
    (
        "the password file of the URL",
        "postgres://scram@127.0.0.1:PORT/trusts?passfile=FILES/passfile",
        "",
        Connect,
    ),
    (
        "a password file with escapes",
        "postgres://od%20d%40%3A%2F%3F%23@127.0.0.1:PORT/trusts",
        "PGPASSFILE=FILES/passfile",
        Connect,
    ),
    (
        "a password file for others",
        "postgres://tlsonly@127.0.0.1:PORT/trusts",
        "PGPASSFILE=FILES/passfile",
        Refused,
    ),
    (
        "a password file that others can read",
        "postgres://scram@127.0.0.1:PORT/trusts",
        "PGPASSFILE=FILES/openpassfile",
        Refused,
    ),
    (
        "a password file that is not there",
        "postgres://scram@127.0.0.1:PORT/trusts",
        "PGPASSFILE=FILES/nothing",
        Refused,
    ),
    (
        "the password overrides the file",
        "postgres://scram:wrong@127.0.0.1:PORT/trusts",
        "PGPASSFILE=FILES/passfile",
        Refused,
    ),
    // Services.
    ("a service", "postgres:///?service=trusts", "PGSERVICEFILE=FILES/services", Connect),
    (
        "a service of the environment",
        "postgres://",
        "PGSERVICEFILE=FILES/services PGSERVICE=trusts",
        Connect,
    ),
    ("a service in the home folder", "service=trusts", "HOME=FILES/right", Connect),
    (
        "a service overrides the environment",
        "service=trusts",
        "PGSERVICEFILE=FILES/services PGUSER=x",
        Connect,
    ),
    ("no such service", "service=nothing", "PGSERVICEFILE=FILES/services", Refused),
    // The rest.
    ("settings", "BASE?options=-c%20geqo%3Doff", "", Connect),
    ("settings that the server refuses", "BASE?options=-c%20geqo%3Dmaybe", "", Refused),
    ("a name of the program", "BASE?application_name=x&fallback_application_name=y", "", Connect),
    ("an encoding", "BASE?client_encoding=UTF8", "", Connect),
    ("another encoding", "BASE?client_encoding=LATIN1", "", ByName("`client_encoding`")),
    ("no Kerberos", "BASE?gssencmode=disable", "", Connect),
    ("Kerberos", "BASE?krbsrvname=postgres", "", ByName("`krbsrvname`")),
    ("keepalives", "BASE?keepalives=1", "", ByName("`keepalives`")),
    (
        "a user of the socket's server",
        "postgres://scram:pw@127.0.0.1:PORT/trusts?requirepeer=postgres",
        "",
        ByName("`requirepeer`"),
    ),
];

/// The server, and the files that the rows name.
struct Fixture {
    server: PostgresServer,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Option<Self> {
        let authority = authority("ca");
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = PostgresServer::start_with(|server| {
            let (certificate, key) = certificate(&authority, "localhost");
            let certificate = server.give("server.crt", &certificate, 0o644);
            let key = server.give("server.key", &key, 0o600);
            let ca = server.give("ca.crt", &authority.pem(), 0o644);
            let rules = server.give("rules", RULES, 0o600);
            let addresses = if has_ipv6() { "127.0.0.1,::1" } else { "127.0.0.1" };
            format!(
                "-c listen_addresses={addresses} -c unix_socket_directories={} -c ssl=on \
                 -c ssl_cert_file={} -c ssl_key_file={} -c ssl_ca_file={} -c hba_file={}",
                server.folder().display(),
                certificate.display(),
                key.display(),
                ca.display(),
                rules.display()
            )
        })?;
        let fixture = Self { server, folder };
        fixture.make_files(&authority);
        fixture.make_databases();
        Some(fixture)
    }

    /// Makes the databases. Each has the table, which every role may read.
    fn make_databases(&self) {
        let template = self.server.url("template1");
        let registered =
            self.trust_auth().args(["--database", &template, "register", "--name=a"]).output();
        assert!(registered.as_ref().unwrap().status.success(), "{registered:?}");
        self.server.psql("template1", "GRANT SELECT ON trust, trust_key TO PUBLIC");
        let user = system_user();
        let mut peers = vec!["peer", "daemon", &user];
        peers.dedup();
        for role in ["scram", "tlsonly", "plainonly"] {
            self.server.psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'"));
        }
        self.server.psql("postgres", "CREATE ROLE \"od d@:/?#\" LOGIN PASSWORD 'p@:/?#%'");
        for role in peers.into_iter().chain(["certuser"]) {
            self.server.psql("postgres", &format!("CREATE ROLE \"{role}\" LOGIN"));
        }
        for database in ["trusts", "scram", "d b/@", &user] {
            self.server
                .psql("postgres", &format!("CREATE DATABASE \"{database}\" TEMPLATE template1"));
        }
    }

    fn make_files(&self, authority: &CertifiedIssuer<'static, KeyPair>) {
        let (client, key) = certificate(authority, "certuser");
        let other = self::authority("other");
        let port = self.server.port();
        let passwords = format!(
            "# host:port:database:user:password\nnowhere:*:*:*:wrong\n*:{port}:trusts:scram:pw\n\
             *:*:*:od d@\\:/?#:p@\\:/?#%\n"
        );
        let service = format!(
            "[other]\nhost=nowhere\n[trusts]\n# it\nhost=127.0.0.1\nport={port}\n\
             user=scram\npassword=pw\ndbname=trusts\n"
        );
        let pem = authority.pem();
        for (name, content, mode) in [
            ("ca.crt", &pem, 0o644),
            ("other.crt", &other.pem(), 0o644),
            ("client.crt", &client, 0o644),
            ("client.key", &key, 0o600),
            ("open.key", &key, 0o644),
            ("passfile", &passwords, 0o600),
            ("openpassfile", &passwords, 0o644),
            ("services", &service, 0o644),
            ("right/.pgpass", &passwords, 0o600),
            ("right/.pg_service.conf", &service, 0o644),
            ("right/.postgresql/root.crt", &pem, 0o644),
            ("right/.postgresql/postgresql.crt", &client, 0o644),
            ("right/.postgresql/postgresql.key", &key, 0o600),
            ("wrong/.postgresql/root.crt", &other.pem(), 0o644),
            ("home/.keep", &String::new(), 0o644),
        ] {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    fn filled(&self, text: &str) -> String {
        let run = self.server.folder().display().to_string();
        text.replace("BASE", BASE)
            .replace("%2FRUN", &run.replace('/', "%2F"))
            .replace("RUN", &run)
            .replace("PORT=", "PO_RT=")
            .replace("PORT", &self.server.port().to_string())
            .replace("PO_RT=", "PORT=")
            .replace("FILES", &self.folder.path().display().to_string())
    }

    /// Returns a command whose environment is the row's alone.
    fn command(&self, program: &Path, environment: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.folder.path().join("home"))
            .env("PATH", "/usr/bin:/bin");
        for variable in environment.split_whitespace() {
            let (name, value) = variable.split_once('=').unwrap();
            command.env(name, self.filled(value));
        }
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    fn trust_auth(&self) -> Command {
        self.command(&trust_auth_program(), "")
    }

    fn psql(&self, database: &str, environment: &str) -> Output {
        self.command(&self.server.psql_program(), environment)
            .args([
                "--no-psqlrc",
                "--no-password",
                "--tuples-only",
                "--command=SELECT name FROM trust",
                "--dbname",
            ])
            .arg(database)
            .output()
            .unwrap()
    }

    fn list(&self, database: &str, environment: &str) -> Output {
        let mut command = self.command(&trust_auth_program(), environment);
        command.args(["--json", "--database", database, "list"]).output().unwrap()
    }
}

const RULES: &str = "\
local all postgres scram-sha-256
local all scram scram-sha-256
local all all peer
hostssl all certuser all cert
host all certuser all reject
hostssl all tlsonly all scram-sha-256
hostnossl all plainonly all scram-sha-256
host all tlsonly,plainonly all reject
host all all all scram-sha-256
";

fn trust_auth_program() -> PathBuf {
    env!("CARGO_BIN_EXE_trust-auth").into()
}

fn system_user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for this name, and its key.
fn certificate(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn left_out(what: &str) {
    let _ = writeln!(io::stderr(), "LEFT OUT: {what}");
}

#[test]
fn databases_are_reached_as_psql_reaches_them() {
    let Some(fixture) = Fixture::new() else { return };
    let mut wrong = Vec::new();
    for (name, database, environment, expected) in TABLE {
        if database.contains("[::1]:") && !has_ipv6() {
            left_out(&format!("{name}: this machine has no IPv6"));
            continue;
        }
        let database = fixture.filled(database);
        let (psql, ours) =
            (fixture.psql(&database, environment), fixture.list(&database, environment));
        let told = format!(
            "{}{}{}",
            String::from_utf8_lossy(&ours.stdout),
            String::from_utf8_lossy(&ours.stderr),
            String::from_utf8_lossy(&psql.stderr)
        );
        let ours_told = String::from_utf8_lossy(&ours.stdout).into_owned()
            + &String::from_utf8_lossy(&ours.stderr);
        let fits = match expected {
            Connect => psql.status.success() && ours.status.success(),
            Refused => {
                !psql.status.success() && !ours.status.success() && ours_told.contains("\"kind\":")
            }
            ByName(words) => {
                psql.status.success()
                    && !ours.status.success()
                    && words.split(' ').all(|word| ours_told.contains(word))
            }
        };
        let tells_a_secret =
            ["pw@", "password=pw", "wrong", "p@:/"].iter().any(|word| ours_told.contains(word));
        if !fits || tells_a_secret {
            wrong.push(format!(
                "{name}: expected {expected:?}; psql connected: {}, we connected: {}\n{told}",
                psql.status.success(),
                ours.status.success()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), TABLE.len(), wrong.join("\n"));
}

#[test]
fn another_user_of_the_system_logs_in_through_the_socket_as_that_user() {
    if fs::metadata("/proc/self").map_or(1, |process| process.uid()) != 0 {
        return left_out("another user of the system: this needs root");
    }
    let Some(fixture) = Fixture::new() else { return };
    let database = fixture.filled("postgres:///trusts?host=RUN&port=PORT");
    for (program, arguments) in [
        (fixture.server.psql_program(), vec!["--command=SELECT 1", "--dbname", &database]),
        (trust_auth_program(), vec!["--json", "--database", &database, "list"]),
    ] {
        let mut command = fixture.command(Path::new("/usr/bin/setpriv"), "");
        command
            .args(["--reuid=daemon", "--regid=daemon", "--clear-groups"])
            .arg(&program)
            .args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program:?}: {output:?}");
    }
    let log = fixture.server.log();
    assert!(!log.contains(PASSWORD), "{log}");
}

#[test]
fn of_several_servers_the_primary_is_used_at_any_place_in_the_list() {
    let Some(primary) = PostgresServer::start() else { return };
    let url = primary.new_database();
    let replica = primary.replica();
    let servers = |ports: [u16; 2]| {
        let one = format!("127.0.0.1:{}", primary.port());
        let both = format!("127.0.0.1:{},127.0.0.1:{}", ports[0], ports[1]);
        url.replace(&one, &both) + "?target_session_attrs=read-write"
    };
    for (name, ports) in
        [("first", [replica.port(), primary.port()]), ("second", [primary.port(), replica.port()])]
    {
        let database = servers(ports);
        let registered = Command::new(trust_auth_program())
            .args(["--database", &database, "register", "--name", name])
            .output()
            .unwrap();
        assert!(registered.status.success(), "{name}: {registered:?}");
        let psql = Command::new(primary.psql_program())
            .args([
                "--no-psqlrc",
                "--tuples-only",
                "--command=SELECT pg_is_in_recovery()",
                "--dbname",
                &database,
            ])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&psql.stdout).trim(), "f", "{psql:?}");
    }
    let replicas = servers([replica.port(), replica.port()]);
    let refused = Command::new(trust_auth_program())
        .args(["--json", "--database", &replicas, "list"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&refused.stdout).contains("\"read_only\""), "{refused:?}");
}

#[test]
fn an_empty_password_from_a_file_or_command_is_an_error_without_the_output() {
    let Some(server) = PostgresServer::start() else { return };
    let url = server.new_database();
    let without_password = url.replace(&format!(":{PASSWORD}@"), "@");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let run = |database: &str, flags: &[&str]| {
        let output = Command::new(trust_auth_program())
            .args(["--json", "--database", database])
            .args(flags)
            .args(["register", "--name=a"])
            .output()
            .unwrap();
        let told =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.success(), told)
    };
    let (good, bad) = (file("good", &format!("{PASSWORD}\n")), file("bad", "hunter3\n"));
    let (empty, two) = (file("empty", "\n"), file("two", "hunter3\0\n"));
    let command = "--database-password-command";
    for (flags, kind, words) in [
        (vec!["--database-password-file", "/nothing"], "cannot_connect", "password file /nothing"),
        (vec!["--database-password-file", &empty], "cannot_connect", "is empty"),
        (vec!["--database-password-file", &two], "cannot_connect", "NUL"),
        (vec!["--database-password-file", &bad], "cannot_connect", "refused the password"),
        (vec![command, "/nothing"], "cannot_connect", "cannot be started"),
        (
            vec![command, "sh -c 'echo hunter3; echo hunter4 >&2; exit 3'"],
            "cannot_connect",
            "exit status: 3",
        ),
        (vec![command, "sh -c 'echo hunter3; exec sleep 600'"], "cannot_connect", "did not end"),
        (vec![command, "true"], "cannot_connect", "is empty"),
        (vec![command, "echo 'hunter3"], "unsupported_url", command),
        (
            vec![command, "true", "--database-password-file", &good],
            "unsupported_url",
            "leave one of them out",
        ),
    ] {
        let (succeeded, told) = run(&without_password, &flags);
        assert!(!succeeded && told.contains(kind) && told.contains(words), "{flags:?}: {told}");
        assert!(!told.contains("hunter"), "{flags:?}: {told}");
    }
    let flags = ["--database-password-file", &good];
    assert!(run(&url, &flags).1.contains("leave one of them out"), "the URL has a password, too");
    let sqlite = folder.path().join("trusts.db").display().to_string();
    assert!(run(&sqlite, &flags).1.contains("are for PostgreSQL"));
    assert!(run(&without_password, &flags).0);
}

#[tokio::test]
async fn a_watched_store_works_over_verified_tls_and_recovers_when_its_connections_are_cut() {
    let Some(fixture) = Fixture::new() else { return };
    let url = format!(
        "postgres://postgres:{PASSWORD}@localhost:PORT/trusts?sslmode=verify-full\
         &sslrootcert=FILES/ca.crt"
    );
    let store = PostgresStore::options(&fixture.filled(&url)).connect().await.unwrap();
    let watcher = store.watch(Arc::new(TrustKeyCache::new()));
    let registry = TrustRegistry::new(Arc::new(store.clone()), Arc::new(TrustKeyCache::new()));
    // More data than one read of the tunnel.
    let code = "x".repeat(2_000);
    for number in 0..40 {
        registry
            .register(NewTrust::new(format!("t{number}")).unwrap().with_code(&code))
            .await
            .unwrap();
    }
    let patience = Duration::from_secs(30);
    for connects in 1..3 {
        let begun = Instant::now();
        while !watcher.status().connected || watcher.status().connects < connects {
            assert!(begun.elapsed() < patience, "{:?}", watcher.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // One more trust is the fixture's.
        assert_eq!(store.list().await.unwrap().len(), 41);
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                         WHERE application_name LIKE 'trust-auth%'";
        assert_eq!(fixture.server.psql("trusts", encrypted), "t");
        assert!(fixture.server.kill_connections("/trusts") >= 2);
    }
    store.close().await;
}
