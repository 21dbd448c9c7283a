//! Runs the program as a person or a script does, and checks its output, its exit code and its
//! files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use trust_auth::{ApiKey, KeyForm, KeyHash, KeyPrefix};

const COMMANDS: [&str; 14] = [
    "register",
    "list",
    "key",
    "disable",
    "enable",
    "rotate",
    "set-attributes",
    "delete",
    "verify",
    "serve",
    "migrate",
    "openapi",
    "completions",
    "help",
];

/// A working directory, which is deleted at the end of the test.
struct Shell {
    folder: TempDir,
}

/// The output of one run of the program.
#[derive(Debug)]
struct ProgramOutput {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Shell {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Returns a shell whose database has one trust, and the key of the trust.
    fn with_trust(name: &str) -> (Self, String) {
        let shell = Self::new();
        let key = shell.register(name);
        (shell, key)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn database(&self) -> PathBuf {
        self.path().join("trust-auth.db")
    }

    fn command(&self) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_trust-auth"));
        command.current_dir(self.path());
        command.env_remove("TRUST_AUTH_DATABASE").env_remove("TRUST_AUTH_KEY_PREFIX");
        command.env_remove("TRUST_AUTH_PEPPER_FILE").env_remove("TRUST_AUTH_TABLE");
        command.env_remove("TRUST_AUTH_KEY_TABLE").env_remove("TRUST_AUTH_COLUMN");
        command
    }

    fn run(&self, arguments: &[&str]) -> ProgramOutput {
        ProgramOutput::new(self.command().args(arguments).output().unwrap())
    }

    fn verify(&self, input: impl Into<Vec<u8>>) -> ProgramOutput {
        ProgramOutput::new(self.command().arg("verify").write_stdin(input).output().unwrap())
    }

    fn verify_json(&self, input: impl Into<Vec<u8>>) -> (i32, Value) {
        let ran = ProgramOutput::new(
            self.command().args(["verify", "--json"]).write_stdin(input).output().unwrap(),
        );
        (ran.code, ran.json())
    }

    fn register(&self, name: &str) -> String {
        let ran = self.run(&["register", "--name", name]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.trim_end().to_owned()
    }

    fn id_of(&self, name: &str) -> String {
        let listed = self.run(&["list", "--json"]).json();
        let trust = listed["trusts"].as_array().unwrap().iter().find(|trust| trust["name"] == name);
        trust.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Asserts that the working directory is empty.
    fn assert_untouched(&self) {
        let entries: Vec<_> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(entries.is_empty(), "{entries:?}");
    }
}

impl ProgramOutput {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ran = Self {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }

    /// Returns the only line of standard output as JSON. Asserts that standard error is empty.
    fn json(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "{:?}", self.stdout);
        assert!(self.stdout.ends_with('\n'));
        assert_eq!(self.stderr, "");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Returns the kind of the failure in the JSON. Asserts that its message is not empty.
    fn failure(&self) -> String {
        assert_eq!(self.code, 1);
        let json = self.json();
        let error = &json["error"];
        assert!(!error["message"].as_str().unwrap().is_empty());
        error["kind"].as_str().unwrap().to_owned()
    }

    /// Returns the error for people, which is one line.
    fn error(&self) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (1, ""));
        let line = self.stderr.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{line}");
        line.strip_prefix("error: ").unwrap()
    }
}

fn is_a_key(text: &str) -> bool {
    KeyPrefix::default().form_of(text) == KeyForm::Intact
}

/// Returns the key with another last character, which is a part of its checksum.
fn damaged(key: &str) -> String {
    let (start, last) = key.split_at(key.len() - 1);
    format!("{start}{}", if last == "0" { "1" } else { "0" })
}

/// A well-formed key of an older version that belongs to no trust.
const UNKNOWN_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn register_prints_the_key_alone_on_standard_output() {
    let shell = Shell::new();
    let ran = shell.run(&["register", "--name", "St. Mary", "--code", "SM1", "--region", "north"]);
    assert_eq!(ran.code, 0);
    let key = ran.stdout.strip_suffix('\n').unwrap();
    assert!(is_a_key(key), "{key:?}");
    assert!(
        ran.stderr.contains("St. Mary") && ran.stderr.contains("cannot be shown again"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains(key));
}

#[test]
fn register_as_json_holds_the_key_and_the_trust() {
    let shell = Shell::new();
    let json = shell
        .run(&["register", "--name", "St. Mary", "--code", "SM1", "--region", "north", "--json"])
        .json();
    assert!(is_a_key(json["api_key"].as_str().unwrap()));
    let trust = &json["trust"];
    assert_eq!(
        (&trust["name"], &trust["code"], &trust["region"]),
        (&"St. Mary".into(), &"SM1".into(), &"north".into())
    );
    assert_eq!(trust["disabled_at"], Value::Null);
    assert!(trust.get("api_key_hash").is_none());
}

#[test]
fn a_key_is_shown_once_and_no_other_output_has_it_or_its_hash() {
    let (shell, key) = Shell::with_trust("St. Mary");
    let hash = trust_auth::KeyHash::of(&key).to_hex();
    let other = shell.register("Other");
    assert_ne!(key, other);

    let mut said = String::new();
    for json in [&[][..], &["--json"]] {
        for command in [
            &["list"][..],
            &["disable", "St. Mary"],
            &["enable", "St. Mary"],
            &["register", "--name", "St. Mary"],
            &["delete", "unknown"],
            &["disable", &key],
            &["rotate", &hash[..43]],
        ] {
            let ran = shell.run(&[command, json].concat());
            said.push_str(&ran.stdout);
            said.push_str(&ran.stderr);
        }
        for input in [key.clone(), format!("{key}x"), format!("{key}\n\n")] {
            let ran = ProgramOutput::new(
                shell.command().arg("verify").args(json).write_stdin(input).output().unwrap(),
            );
            said.push_str(&ran.stdout);
            said.push_str(&ran.stderr);
        }
    }
    assert!(said.contains("St. Mary"));
    for secret in [&key[..], &key[..20], &hash, &hash[..20]] {
        assert!(!said.contains(secret));
        assert!(!said.contains(&secret.to_uppercase()));
    }
    let database = fs::read(shell.database()).unwrap();
    assert!(
        !database.windows(key.len()).any(|window| window == key.as_bytes()),
        "the key was stored"
    );
}

#[test]
fn list_is_sorted_by_name_and_shows_which_trusts_are_disabled() {
    let shell = Shell::new();
    for name in ["b", "a", "c"] {
        shell.register(name);
    }
    shell.run(&["disable", "c"]);

    let ran = shell.run(&["list"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> =
        ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["NAME", "ID", "STATE"]);
    let rows: Vec<_> = lines[1..].iter().map(|row| (row[0], row[2])).collect();
    assert_eq!(rows, [("a", "enabled"), ("b", "enabled"), ("c", "disabled")]);

    let json = shell.run(&["list", "--json"]).json();
    let names: Vec<_> = json["trusts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trust| trust["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(json["trusts"][2]["disabled_at"].is_string());
}

#[test]
fn list_without_trusts_shows_how_to_register_one() {
    let (shell, _) = Shell::with_trust("only");
    shell.run(&["delete", "only"]);
    assert!(shell.run(&["list"]).stdout.contains("register"));
    assert_eq!(shell.run(&["list", "--json"]).stdout, "{\"trusts\":[]}\n");
}

#[test]
fn verify_grants_the_right_key_and_names_its_trust() {
    let shell = Shell::new();
    let key =
        shell.run(&["register", "--name", "St. Mary", "--code", "SM1", "--region", "north"]).stdout;
    let ran = shell.verify(key.trim_end());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    for part in ["St. Mary", &shell.id_of("St. Mary"), "SM1", "north"] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    let (code, json) = shell.verify_json(key);
    assert_eq!(
        (code, &json["authenticated"], &json["trust"]["name"]),
        (0, &true.into(), &"St. Mary".into())
    );
    assert!(json["trust"].get("api_key_hash").is_none());
}

#[test]
fn verify_removes_one_newline_and_nothing_else() {
    let (shell, key) = Shell::with_trust("a");
    for granted in [format!("{key}\n"), format!("{key}\r\n")] {
        assert_eq!(shell.verify(granted).code, 0);
    }
    for refused in [
        format!("{key}\n\n"),
        format!("{key}\r"),
        format!("{key} "),
        format!(" {key}"),
        format!("\n{key}"),
        format!("{key}\0"),
        format!("\u{feff}{key}"),
        key.to_lowercase(),
        key[..42].to_owned(),
    ] {
        let (code, json) = shell.verify_json(refused.clone());
        assert_eq!((code, &json["reason"]), (1, &"invalid".into()), "{refused:?}");
    }
}

#[test]
fn verify_writes_the_reason_of_a_refusal_to_standard_output() {
    let (shell, _) = Shell::with_trust("a");
    for (input, reason, message) in [
        (UNKNOWN_KEY.as_bytes().to_vec(), "invalid", "Invalid API Key."),
        (b"".to_vec(), "missing", "Not authenticated: API key is missing."),
        (b"\n".to_vec(), "missing", "Not authenticated: API key is missing."),
        (b"\r\n".to_vec(), "missing", "Not authenticated: API key is missing."),
        (b"\xff\xfe\xfd".to_vec(), "invalid", "The key is not UTF-8 text."),
        ("ключ".as_bytes().to_vec(), "invalid", "Invalid API Key."),
        (vec![b'k'; 1024 * 1024], "invalid", "Invalid API Key."),
        (vec![b'k'; 1024 * 1024 + 1], "invalid", "The key is longer than 1048576 bytes."),
        (vec![b'\n'; 3 * 1024 * 1024], "invalid", "The key is longer than 1048576 bytes."),
    ] {
        let ran = shell.verify(input.clone());
        assert_eq!((ran.code, ran.stdout), (1, format!("Refused ({reason}): {message}\n")));
        assert_eq!(ran.stderr, "");
        let (code, json) = shell.verify_json(input);
        assert_eq!(code, 1);
        assert_eq!(
            json,
            serde_json::json!({"authenticated": false, "reason": reason, "message": message})
        );
    }
}

#[test]
fn verify_reports_a_damaged_key_and_looks_any_other_up() {
    let (shell, key) = Shell::with_trust("a");
    let wrong = damaged(&key);
    // Only the form refuses it.
    let digest = KeyHash::of(&wrong).to_hex();
    assert_eq!(shell.run(&["register", "--name", "b", "--key-sha256", &digest]).code, 0);
    let message = "The key is damaged: its checksum is wrong. Copy it again.";
    let ran = shell.verify(&*wrong);
    assert_eq!((ran.code, ran.stdout), (1, format!("Refused (invalid): {message}\n")));
    let (code, json) = shell.verify_json(&*wrong);
    assert_eq!((code, &json["reason"], &json["message"]), (1, &"invalid".into(), &message.into()));

    let (_, json) = shell.verify_json(&key[..52]);
    assert_eq!(json["message"], "Invalid API Key.", "another program may have made it");
    let other_prefix = |variable: &str, arguments: &[&str]| {
        let mut command = shell.command();
        command.args(arguments).env("TRUST_AUTH_KEY_PREFIX", variable).write_stdin(&*wrong);
        command.output().unwrap().status.code().unwrap()
    };
    assert_eq!(other_prefix("acme_", &["verify"]), 0);
    assert_eq!(other_prefix("tak_", &["verify", "--key-prefix", "acme_"]), 0);
    assert_eq!(other_prefix("acme_", &["verify", "--key-prefix", "tak_"]), 1);
}

#[test]
fn a_trust_is_registered_with_the_key_that_it_has() {
    let shell = Shell::new();
    // A key of an older version may begin with a hyphen.
    let keys = [
        "-J2PPPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4".to_owned(),
        "key of another program".to_owned(),
        ApiKey::generate().unwrap().expose().to_owned(),
    ];
    for (number, key) in keys.iter().enumerate() {
        let digest = KeyHash::of(key).to_hex().to_uppercase();
        let file = shell.path().join("key.txt");
        fs::write(&file, format!("{key}\n")).unwrap();
        for (name, option, value) in [
            ("by its digest", "--key-sha256", &*digest),
            ("by a file", "--key-file", "key.txt"),
            ("by standard input", "--key-file", "-"),
        ] {
            let arguments = ["register", "--name", name, "--code", "C", option, value];
            let mut command = shell.command();
            command.args(arguments).write_stdin(key.clone());
            let ran = ProgramOutput::new(command.output().unwrap());
            assert_eq!((ran.code, &*ran.stderr), (0, ""), "{number} {name}");
            let id = shell.id_of(name);
            assert_eq!(ran.stdout, format!("Registered {name} ({id}) with the key that it has.\n"));
            let (code, json) = shell.verify_json(key.clone());
            assert_eq!((code, &json["trust"]["id"]), (0, &id.into()), "{number} {name}");

            // Another trust has it, enabled or disabled.
            for change in ["enable", "disable"] {
                assert_eq!(shell.run(&[change, name]).code, 0);
                let again = ["register", "--name", "b", option, value, "--json"];
                let mut command = shell.command();
                command.args(again).write_stdin(key.clone());
                let ran = ProgramOutput::new(command.output().unwrap());
                assert_eq!(ran.failure(), "key_taken", "{number} {name}");
                assert!(!ran.stdout.contains(&digest[..8]) && !ran.stdout.contains(&**key));
            }
            assert_eq!(shell.run(&["delete", name]).code, 0);
        }
    }
    let digest = KeyHash::of("key").to_hex();
    let json = shell.run(&["register", "--name", "a", "--key-sha256", &digest, "--json"]).json();
    assert_eq!((&json["trust"]["name"], json.get("api_key")), (&"a".into(), None));
}

#[test]
fn a_key_that_cannot_be_one_is_refused_before_anything_is_written_and_not_repeated() {
    let shell = Shell::new();
    let key = ApiKey::generate().unwrap();
    let wrong = damaged(key.expose());
    let refusal = |option: &str, value: &str, input: &[u8]| {
        let arguments = ["register", "--name", "a", option, value, "--json"];
        let mut command = shell.command();
        command.args(arguments).write_stdin(input);
        let ran = ProgramOutput::new(command.output().unwrap());
        let shown = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!shown.contains(&wrong[4..20]) && !shown.contains(&wrong[30..]), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let message = ran.json()["error"]["message"].as_str().unwrap().to_owned();
        (ran.failure(), message)
    };
    for (option, value, input, kind, told) in [
        ("--key-file", "-", wrong.as_bytes(), "invalid_key", "checksum is wrong"),
        ("--key-file", "-", b"", "invalid_key", "empty"),
        ("--key-file", "-", b"\n", "invalid_key", "empty"),
        ("--key-file", "-", b"hunter2\n\n", "invalid_key", "control character"),
        ("--key-file", "-", b" hunter2", "invalid_key", "white space"),
        ("--key-file", "-", b"\xff\xfe", "invalid_key", "not UTF-8"),
        ("--key-file", "-", &[b'k'; 5_000], "invalid_key", "longer than 4096 bytes"),
        ("--key-file", "-", &[b'k'; 2 * 1024 * 1024], "invalid_key", "longer than 4096 bytes"),
        ("--key-file", "gone.txt", b"", "input", "gone.txt"),
        ("--key-file", ".", b"", "input", "cannot read the key from ."),
        ("--key-file", &wrong, b"", "input", "cannot read the key from the file"),
        ("--key-sha256", &wrong, b"", "invalid_key", "the SHA-256 of the key, not the key"),
        ("--key-sha256", "hunter2", b"", "invalid_key", "64 hexadecimal digits"),
        ("--key-sha256", "", b"", "invalid_key", "64 hexadecimal digits"),
    ] {
        let (found, message) = refusal(option, value, input);
        assert_eq!(found, kind, "{option} {value}: {message}");
        assert!(message.contains(told), "{option} {value}: {message}");
    }
    let digest = key.hash().to_hex();
    let both = ["register", "--name", "a", "--key-sha256", &digest, "--key-file", "-"];
    assert_eq!(shell.run(&both).code, 2);
    shell.assert_untouched();
}

#[test]
fn the_prefix_of_new_keys_is_an_option_or_a_variable() {
    let shell = Shell::new();
    let key = |arguments: &[&str], variable: &str| {
        let mut command = shell.command();
        command.args(arguments).env("TRUST_AUTH_KEY_PREFIX", variable);
        let ran = ProgramOutput::new(command.output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.trim_end().to_owned()
    };
    let is_of =
        |prefix: &str, key: &str| KeyPrefix::new(prefix).unwrap().form_of(key) == KeyForm::Intact;
    assert!(is_of("acme_", &key(&["register", "--name", "a"], "acme_")));
    assert!(is_of("x_", &key(&["register", "--name", "b", "--key-prefix", "x_"], "acme_")));
    assert!(is_of("acme_", &key(&["rotate", "b"], "acme_")));
    let last = key(&["rotate", "b", "--key-prefix", "acme_live_1_"], "acme_");
    assert!(is_of("acme_live_1_", &last));
    assert_eq!(shell.verify(last).code, 0);

    for prefix in ["acme", "Acme_", "a-_", "a _", "", "0123456789abcdefghij_"] {
        for command in [&["register", "--name", "c"][..], &["rotate", "a"], &["verify"], &["serve"]]
        {
            let ran = shell.run(&[command, &["--key-prefix", prefix]].concat());
            assert_eq!((ran.code, &*ran.stdout), (2, ""), "{command:?} {prefix:?}");
            assert!(ran.stderr.contains("--key-prefix must have lower-case"), "{}", ran.stderr);
        }
    }
    // The other commands make and check no key.
    assert_eq!(shell.run(&["disable", "a", "--key-prefix", "acme_"]).code, 2);
}

/// Each key in the documents is intact, and the pattern for scanners is the one of the default.
#[test]
fn the_documents_have_the_pattern_of_keys_and_intact_keys() {
    let operating = include_str!("../docs/operating.md");
    let pattern = KeyPrefix::default().pattern();
    assert_eq!(operating.matches(&format!(r"\b{pattern}\b")).count(), 2, "{pattern}");
    for document in [operating, include_str!("../README.md")] {
        let words = document
            .split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
        let keys: Vec<&str> = words.filter(|word| word.len() == 53).collect();
        assert!(!keys.is_empty());
        assert!(keys.iter().all(|key| is_a_key(key)), "{keys:?}");
    }
}

#[test]
fn verify_without_a_usable_database_is_unavailable_and_grants_nothing() {
    let shell = Shell::new();
    let ran = shell.verify(UNKNOWN_KEY);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.starts_with("Refused (unavailable): there is no database"),
        "{}",
        ran.stdout
    );
    let (code, json) = shell.verify_json(UNKNOWN_KEY);
    assert_eq!(
        (code, &json["authenticated"], &json["reason"]),
        (1, &false.into(), &"unavailable".into())
    );
    shell.assert_untouched();
}

#[test]
fn verify_takes_no_key_as_an_argument_and_does_not_repeat_it() {
    let (shell, key) = Shell::with_trust("a");
    for arguments in [
        &["verify", &key][..],
        &["verify", "--key", &key],
        &["--json", "verify", &key],
        &["verify", "--database", "trust-auth.db", &key],
    ] {
        let ran = shell.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
        assert!(ran.stderr.contains("standard input"), "{}", ran.stderr);
        assert!(!ran.stderr.contains(&key));
    }
}

/// G9: each run of the program is a separate process, so its answer depends on the row alone.
#[test]
fn a_disabled_trust_is_refused_until_it_is_enabled_by_name_or_by_id() {
    let (shell, key) = Shell::with_trust("St. Mary");
    let id = shell.id_of("St. Mary");
    for which in ["St. Mary", &id] {
        let disabled = shell.run(&["disable", which]);
        assert_eq!((disabled.code, disabled.stdout), (0, format!("Disabled St. Mary ({id}).\n")));
        assert_eq!(shell.verify(&*key).code, 1);
        let enabled = shell.run(&["enable", which]);
        assert_eq!((enabled.code, enabled.stdout), (0, format!("Enabled St. Mary ({id}).\n")));
        assert_eq!(shell.verify(&*key).code, 0);

        let json = shell.run(&["disable", which, "--json"]).json();
        assert!(json["trust"]["disabled_at"].is_string());
        let json = shell.run(&["enable", which, "--json"]).json();
        assert_eq!(
            (&json["trust"]["disabled_at"], &json["trust"]["id"]),
            (&Value::Null, &id.as_str().into())
        );
    }
}

#[test]
fn disabling_twice_keeps_the_first_time() {
    let (shell, _) = Shell::with_trust("a");
    let first = shell.run(&["disable", "a", "--json"]).json();
    let second = shell.run(&["disable", "a", "--json"]).json();
    assert_eq!(first, second);
}

#[test]
fn a_rotated_key_is_refused_and_the_new_one_is_accepted_by_name_or_by_id() {
    let (shell, mut old) = Shell::with_trust("a");
    let other = shell.register("b");
    let id = shell.id_of("a");
    for which in ["a", &id] {
        let ran = shell.run(&["rotate", which]);
        assert_eq!(ran.code, 0);
        let new = ran.stdout.strip_suffix('\n').unwrap().to_owned();
        assert!(is_a_key(&new) && new != old);
        assert!(!ran.stderr.contains(&new) && !ran.stderr.contains(&old));
        assert!(ran.stderr.contains("cannot be shown again"));
        assert_eq!(shell.verify(&*old).code, 1);
        assert_eq!(shell.verify(&*new).code, 0);
        old = new;
    }
    let json = shell.run(&["rotate", "a", "--json"]).json();
    let new = json["api_key"].as_str().unwrap();
    assert!(is_a_key(new));
    assert_eq!(json["trust"]["id"], id.as_str());
    assert_eq!(shell.verify(&*old).code, 1);
    assert_eq!(shell.verify(new).code, 0);
    assert_eq!(shell.verify(other).code, 0, "another trust's key was lost");
}

#[test]
fn rotating_a_disabled_trust_does_not_enable_it() {
    let (shell, _) = Shell::with_trust("a");
    shell.run(&["disable", "a"]);
    let new = shell.run(&["rotate", "a"]).stdout;
    assert_eq!(shell.verify(&*new).code, 1);
    shell.run(&["enable", "a"]);
    assert_eq!(shell.verify(new).code, 0);
}

#[test]
fn a_deleted_trust_is_refused_and_its_name_is_free_again() {
    let (shell, key) = Shell::with_trust("a");
    let id = shell.id_of("a");
    let ran = shell.run(&["delete", "a"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("Deleted a ({id}).\n")));
    assert_eq!(shell.verify(&*key).code, 1);

    let again = shell.register("a");
    let new_id = shell.id_of("a");
    assert_ne!(id, new_id);
    assert_eq!((shell.verify(&*key).code, shell.verify(&*again).code), (1, 0));
    let json = shell.run(&["delete", &new_id, "--json"]).json();
    assert_eq!(json["trust"]["name"], "a");
    assert_eq!(shell.verify(again).code, 1);
}

#[test]
fn an_unknown_trust_is_named_in_the_error() {
    let (shell, _) = Shell::with_trust("a");
    for which in ["unknown", "A", "a ", "67e55044-10b1-426f-9247-bb680e5fe0c8", ""] {
        for command in ["disable", "enable", "rotate", "delete"] {
            assert!(shell.run(&[command, which]).error().contains(which.trim()));
            assert_eq!(shell.run(&[command, which, "--json"]).failure(), "no_such_trust");
        }
    }
}

#[test]
fn a_key_given_as_a_name_is_not_repeated() {
    let (shell, _) = Shell::with_trust("a");
    let text = UNKNOWN_KEY.replace('A', "q");
    // One key in sixty-four begins with a hyphen, like an option.
    for (key, code) in
        [(text.clone(), 1), (format!("-{}", &text[1..]), 2), (format!("--{}", &text[2..]), 2)]
    {
        for arguments in [&["disable", &key][..], &["rotate", &key], &["register", "--name", &key]]
        {
            for json in [&[][..], &["--json"]] {
                let ran = shell.run(&[arguments, json].concat());
                assert_eq!(ran.code, code, "{arguments:?}");
                assert!(
                    !ran.stdout.contains(&key[2..]) && !ran.stderr.contains(&key[2..]),
                    "{ran:?}"
                );
            }
        }
    }
}

#[test]
fn a_misplaced_key_or_password_is_not_repeated() {
    let shell = Shell::new();
    let key = UNKNOWN_KEY.replace('A', "q");
    for arguments in [
        &[&*key][..],
        &["list", &key],
        &["disable", "a", &key],
        &["register", "--key", &key],
        &["rotate", "a", &format!("--key={key}")],
        &["register", "--name", "a", &format!("--{key}")],
        &["register", "--name", "a", "--code", &key],
        &["register", "--name", "a", "--region", &format!("north {key}")],
        &["serve", "--ttl", &key],
        &["serve", "--key-prefix", &key],
        &["verify", "--key-prefix", "qq"],
        &["list", "postgres://user:qq@localhost/db"],
    ] {
        let ran = shell.run(arguments);
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{arguments:?}");
        assert!(ran.stderr.starts_with("error: ") && !ran.stderr.contains("qq"), "{ran:?}");
    }
    for variable in ["TRUST_AUTH_LISTEN", "TRUST_AUTH_TTL", "TRUST_AUTH_LOG_FORMAT"] {
        for (arguments, code) in [(&["serve"][..], 2), (&["serve", "--help"], 0)] {
            let ran = ProgramOutput::new(
                shell.command().env(variable, &key).args(arguments).output().unwrap(),
            );
            assert_eq!(ran.code, code, "{variable}: {ran:?}");
            assert!(
                !ran.stdout.contains("qq") && !ran.stderr.contains("qq"),
                "{variable}: {ran:?}"
            );
        }
    }
    shell.assert_untouched();
}

/// A correct digest among the arguments does not hide the mistake.
#[test]
fn wrong_usage_next_to_a_digest_names_the_mistake() {
    let shell = Shell::new();
    let digest = "5".repeat(64);
    for (arguments, told) in [
        (&["serve", "--admin-key-sha256", &digest, "--ttl", "60"][..], "--ttl"),
        (&["--database", &digest, "lst"], "lst"),
    ] {
        let ran = shell.run(arguments);
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains(told) && !ran.stderr.contains(&digest), "{ran:?}");
    }
    shell.assert_untouched();
}

#[test]
fn a_taken_name_is_refused_and_changes_nothing() {
    let (shell, key) = Shell::with_trust("a");
    let before = shell.run(&["list", "--json"]).stdout;
    assert!(shell.run(&["register", "--name", "a"]).error().contains("taken"));
    assert_eq!(shell.run(&["register", "--name", "a", "--json"]).failure(), "name_taken");
    assert_eq!(shell.run(&["list", "--json"]).stdout, before);
    assert_eq!(shell.verify(key).code, 0);
}

#[test]
fn an_invalid_name_is_refused_before_anything_is_written() {
    let shell = Shell::new();
    let long = "n".repeat(201);
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let hidden = [
        "a\u{202e}b",
        "a\u{200b}b",
        "a\u{2028}b",
        "a\u{a0}b",
        "a  b",
        "\u{301}a",
        "a\u{e000}",
        ".",
        "..",
    ];
    for name in ["", " ", " a", "a ", "a\nb", "a\u{1b}[2J", &long, id, UNKNOWN_KEY]
        .into_iter()
        .chain(hidden)
    {
        assert!(shell.run(&["register", "--name", name]).error().contains("name"), "{name:?}");
        assert_eq!(
            shell.run(&["register", "--name", name, "--json"]).failure(),
            "invalid_name",
            "{name:?}"
        );
    }
    shell.assert_untouched();
}

#[test]
fn a_name_of_any_script_is_accepted() {
    for name in [
        "Königin-Elisabeth-Herzberge",
        "聖路加",
        "a\"b'c\\d",
        "-",
        "verify",
        &("name ".repeat(39) + "names"),
    ] {
        let (shell, key) = Shell::with_trust(name);
        assert_eq!(shell.verify_json(key).1["trust"]["name"], name);
        assert_eq!(shell.run(&["disable", "--", name]).code, 0);
    }
}

#[test]
fn a_name_is_found_in_either_normal_form_and_stored_in_one() {
    let (shell, key) = Shell::with_trust("Zoe\u{308}");
    assert_eq!(shell.verify_json(key).1["trust"]["name"], "Zo\u{eb}");
    for name in ["Zo\u{eb}", "Zoe\u{308}"] {
        assert_eq!(shell.run(&["register", "--name", name, "--json"]).failure(), "name_taken");
        assert_eq!(shell.run(&["disable", name]).code, 0);
    }
}

#[test]
fn a_code_or_a_region_with_invisible_characters_is_wrong_usage() {
    let shell = Shell::new();
    for text in ["x\u{1b}[2J\ny", "x\u{202e}y", "x\u{200b}", " x", "x\u{2028}y"] {
        for option in ["--code", "--region"] {
            let ran = shell.run(&["register", "--name", "a", option, text]);
            assert_eq!((ran.code, &*ran.stdout), (2, ""), "{option} {text:?}");
        }
    }
    shell.assert_untouched();
}

/// Another program may have written the row.
#[test]
fn control_and_invisible_characters_of_a_row_do_not_reach_a_terminal() {
    let (placeholder, code) = ("placeholder", "x\u{1b}[2J\ny\u{202e}z");
    assert_eq!(placeholder.len(), code.len());
    let shell = Shell::new();
    let key = shell.run(&["register", "--name", "a", "--code", placeholder]).stdout;
    let mut bytes = fs::read(shell.database()).unwrap();
    let at = bytes.windows(code.len()).position(|window| window == placeholder.as_bytes()).unwrap();
    bytes[at..at + code.len()].copy_from_slice(code.as_bytes());
    fs::write(shell.database(), bytes).unwrap();
    let ran = shell.run(&["list"]);
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
    for text in [ran.stdout, shell.verify(&*key).stdout] {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    }
    assert_eq!(shell.verify_json(key).1["trust"]["code"], code);
}

#[test]
fn only_register_creates_a_missing_database() {
    let shell = Shell::new();
    for arguments in [
        &["list"][..],
        &["disable", "a"],
        &["enable", "a"],
        &["rotate", "a"],
        &["delete", "a"],
        &["migrate"],
        &["migrate", "--dry-run"],
    ] {
        let ran = shell.run(arguments);
        assert!(
            ran.error().contains("trust-auth.db") && ran.error().contains("register"),
            "{}",
            ran.stderr
        );
        assert_eq!(shell.run(&[arguments, &["--json"]].concat()).failure(), "not_found");
    }
    shell.assert_untouched();
    shell.register("a");
    assert!(shell.database().is_file());
}

/// Runs a statement on the file, as another program would, and returns its rows.
fn sqlite(file: &Path, sql: &'static str) -> String {
    use sqlx::{ConnectOptions, Connection};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection =
            sqlx::sqlite::SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        let texts: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        texts.join("\n")
    })
}

/// The file is as after a restore from text, which loses the mode of the journal.
#[test]
fn no_command_that_reads_writes_to_the_file() {
    let (shell, key) = Shell::with_trust("St. Mary");
    sqlite(&shell.database(), "PRAGMA journal_mode = DELETE");
    let before = fs::read(shell.database()).unwrap();
    assert_eq!(shell.run(&["list"]).code, 0);
    assert_eq!(shell.verify(key).code, 0);
    let plan = shell.run(&["migrate", "--dry-run"]);
    assert_eq!((plan.code, plan.stdout.as_str()), (0, "PRAGMA journal_mode = WAL;\n"));
    assert!(fs::read(shell.database()).unwrap() == before);

    let ran = shell.run(&["migrate"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "Added write-ahead logging.\n"),
        "{}",
        ran.stderr
    );
    let before = fs::read(shell.database()).unwrap();
    for dry_run in [&[][..], &["--dry-run"]] {
        let ran = shell.run(&[&["migrate"][..], dry_run].concat());
        assert!(ran.code == 0 && ran.stdout.contains("Nothing to do"), "{ran:?}");
    }
    assert_eq!(shell.run(&["migrate", "--json"]).json()["migration"]["needed"], false);
    assert!(fs::read(shell.database()).unwrap() == before);
}

#[test]
fn a_table_that_lacks_a_column_is_left_as_it_is_until_it_is_migrated() {
    let (shell, key) = Shell::with_trust("St. Mary");
    sqlite(&shell.database(), "ALTER TABLE trust DROP COLUMN disabled_at");
    let before = fs::read(shell.database()).unwrap();
    for arguments in [
        &["list"][..],
        &["disable", "St. Mary"],
        &["delete", "St. Mary"],
        &["register", "--name", "b"],
        &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"],
    ] {
        let ran = shell.run(&[arguments, &["--json"]].concat());
        assert_eq!(ran.failure(), "not_migrated", "{arguments:?}");
        assert!(
            ran.stdout.contains("`disabled_at`") && ran.stdout.contains("run `trust-auth migrate`")
        );
    }
    assert_eq!(shell.verify_json(key.clone()).1["reason"], "unavailable");
    let plan = shell.run(&["migrate", "--dry-run"]).stdout;
    assert!(plan.contains("ALTER TABLE trust ADD COLUMN disabled_at TEXT;"), "{plan}");
    assert!(fs::read(shell.database()).unwrap() == before);

    assert_eq!(shell.run(&["migrate", "--json"]).json()["migration"]["sql"], plan);
    assert_eq!(shell.verify(key).code, 0);
    assert_eq!(shell.run(&["disable", "St. Mary"]).code, 0);
    assert_eq!(sqlite(&shell.database(), "SELECT name FROM trust"), "St. Mary");
}

#[test]
fn a_migration_creates_the_tables_of_an_empty_file() {
    let shell = Shell::new();
    fs::write(shell.database(), "").unwrap();
    let plan = shell.run(&["migrate", "--dry-run"]).stdout;
    assert!(plan.contains("BEGIN IMMEDIATE;") && plan.contains("CREATE TABLE trust ("), "{plan}");
    assert_eq!(fs::read(shell.database()).unwrap(), b"");
    assert_eq!(shell.run(&["migrate", "--json"]).json()["migration"]["sql"], plan);
    assert_eq!(shell.run(&["list"]).code, 0);
}

#[test]
fn a_run_leaves_the_database_and_no_side_files() {
    let (shell, key) = Shell::with_trust("a");
    shell.verify(key);
    shell.run(&["list"]);
    shell.run(&["disable", "unknown"]);
    let names: Vec<_> =
        fs::read_dir(shell.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["trust-auth.db"]);
}

#[test]
fn the_database_is_a_path_or_a_url_from_the_option_or_the_environment() {
    let shell = Shell::new();
    let file = shell.path().join("elsewhere.db");
    let file = file.to_str().unwrap();
    let key = shell.run(&["register", "--name", "a", "--database", file]).stdout;
    assert!(!shell.database().exists());

    let url = format!("sqlite:{file}");
    for database in [file, &url, "elsewhere.db", "sqlite:elsewhere.db"] {
        for arguments in [["--database", database, "verify"], ["verify", "--database", database]] {
            let output = shell.command().args(arguments).write_stdin(&*key).output().unwrap();
            assert_eq!(ProgramOutput::new(output).code, 0, "{arguments:?}");
        }
        let output =
            shell.command().env("TRUST_AUTH_DATABASE", database).arg("list").output().unwrap();
        assert_eq!(ProgramOutput::new(output).code, 0);
    }
    // The option takes precedence over the environment.
    let output = shell
        .command()
        .env("TRUST_AUTH_DATABASE", "nowhere.db")
        .args(["list", "--database", file])
        .output();
    assert_eq!(ProgramOutput::new(output.unwrap()).code, 0);
    let output = shell.command().env("TRUST_AUTH_DATABASE", "nowhere.db").arg("list").output();
    assert!(ProgramOutput::new(output.unwrap()).error().contains("nowhere.db"));
    assert!(!shell.database().exists() && !shell.path().join("nowhere.db").exists());
}

#[test]
fn help_does_not_show_a_database_that_the_environment_names() {
    let shell = Shell::new();
    let url = "postgres://admin:hunter2@db/trusts";
    for arguments in
        [&["--help"][..], &["list", "--help"], &["list"], &["list", "--json"], &["nonsense"]]
    {
        let output =
            shell.command().env("TRUST_AUTH_DATABASE", url).args(arguments).output().unwrap();
        let ran = ProgramOutput::new(output);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"));
    }
    shell.assert_untouched();
}

#[test]
fn a_database_of_another_kind_is_refused() {
    let shell = Shell::new();
    for url in ["mysql://admin:hunter2@db/trusts", "postgres://admin:hunter2@db/trusts?ssl=hunter2"]
    {
        for command in [&["list"][..], &["register", "--name", "a"]] {
            let ran = shell.run(&[command, &["--database", url, "--json"]].concat());
            assert_eq!(ran.failure(), "unsupported_url");
            assert!(!ran.stdout.contains("hunter2"));
        }
    }
    shell.assert_untouched();
}

#[test]
fn a_wrong_name_of_a_table_or_a_column_is_refused_before_anything_is_read_or_written() {
    let key = "tak_PiXmTxxV9xqPWQC6liorxlJiggkv4NKwenKcMJXGvvI0SvCaV";
    let with_key = format!("name={key}");
    for (options, part) in [
        (&["--column", "email=mail"][..], "\"email=mail\" is for a column that there is not"),
        (&["--column", "email=mail"], "the columns are id, name, code, region, api_key_hash,"),
        (&["--column", "email"], "\"email\" has no `=`; write COLUMN=NAME"),
        (&["--column", "name=email", "--column", "name=mail"], "gives `name` twice"),
        (&["--column", "name=email,code=,name=mail"], "gives `name` twice"),
        (&["--column", "name="], "the column `name` cannot be left out"),
        (&["--column", "name=code"], "the name \"code\" is given twice"),
        (&["--column", "name=e\"mail"], "has a control character or one of"),
        (&["--table", ""], "an empty name"),
        (&["--table", "trust_key"], "the name \"trust_key\" is given twice"),
        (&["--key-table", "trust_auth_lease"], "is not one of trusts or keys"),
        (&["--table", key], "one of them looks like an API key"),
        (&["--column", &with_key], "one of them looks like an API key"),
    ] {
        let serve: &[&str] = &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"];
        for command in [&["register", "--name", "a"][..], &["list"], &["verify"], serve] {
            let shell = Shell::new();
            let ran = shell.run(&[command, options, &["--json"]].concat());
            assert_eq!(ran.code, 1, "{options:?}: {}{}", ran.stdout, ran.stderr);
            let error = &ran.json()["error"];
            assert_eq!(error["kind"], "unsupported_url", "{options:?}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(part) && !message.contains(key), "{options:?}: {message}");
            shell.assert_untouched();
        }
    }
    // clap would drop the first of the two without a word.
    let ran = Shell::new().run(&["--column", "code=", "list", "--column=name=email"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("before the command and after it"), "{}", ran.stderr);
    // And here those of the variable.
    let shell = Shell::new();
    let mut command = shell.command();
    command.env("TRUST_AUTH_COLUMN", "disabled_at=gone_at").args(["list", "--column", "code="]);
    let ran = ProgramOutput::new(command.output().unwrap());
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("and the variable TRUST_AUTH_COLUMN, too"), "{}", ran.stderr);
    let ran = Shell::new().run(&["--column", "code=", "--column", "region=", "list"]);
    assert!(ran.stderr.contains("there is no database"), "{}", ran.stderr);
}

#[test]
fn an_applications_table_is_migrated_and_used_under_its_names() {
    let shell = Shell::new();
    fs::write(shell.database(), "").unwrap();
    sqlite(
        &shell.database(),
        "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, email TEXT NOT NULL UNIQUE, \
         created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP); \
         INSERT INTO users (id, email) VALUES ('00000000-0000-4000-8000-000000000001', 'mary@x')",
    );
    let names = ["--table", "users", "--column", "name=email", "--column", "code=,region="];
    let before = fs::read(shell.database()).unwrap();
    let planned = shell.run(&[&names[..], &["migrate", "--dry-run"]].concat());
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    for part in ["ALTER TABLE \"users\" ADD", "disabled_at", "CREATE TABLE trust_key", "\"users\""]
    {
        assert!(planned.stdout.contains(part), "{part}: {}", planned.stdout);
    }
    for left_out in ["code", "region", "CREATE TABLE trust "] {
        assert!(!planned.stdout.contains(left_out), "{left_out}: {}", planned.stdout);
    }
    assert_eq!(fs::read(shell.database()).unwrap(), before);

    // The variables do the same.
    let with_variables = |arguments: &[&str]| {
        let mut command = shell.command();
        command.env("TRUST_AUTH_TABLE", "users");
        command.env("TRUST_AUTH_COLUMN", "name=email,code=,region=").args(arguments);
        ProgramOutput::new(command.output().unwrap())
    };
    let migrated = with_variables(&["migrate"]);
    assert!(migrated.stdout.starts_with("Added "), "{}", migrated.stderr);
    let again = shell.run(&[&names[..], &["migrate"]].concat());
    assert!(again.stdout.starts_with("Nothing to do"), "{}", again.stdout);
    let rotated = with_variables(&["rotate", "mary@x"]);
    assert_eq!(rotated.code, 0, "{}", rotated.stderr);
    let mut command = shell.command();
    let verified = command.args(names).arg("verify").write_stdin(rotated.stdout).output().unwrap();
    let verified = ProgramOutput::new(verified).stdout;
    assert!(verified.starts_with("Granted: mary@x (00000000-"), "{verified}");
    // A flag takes the place of the variable.
    let mut command = shell.command();
    command.env("TRUST_AUTH_TABLE", "persons").args(names).arg("list");
    assert!(ProgramOutput::new(command.output().unwrap()).stdout.contains("mary@x"));
    let other = with_variables(&["list", "--table", "persons"]);
    assert!(other.stderr.contains("its table `persons` does not exist"), "{}", other.stderr);
}

#[test]
fn a_file_that_is_not_a_database_is_refused_and_unchanged() {
    let shell = Shell::new();
    let content = "This is a text. ".repeat(1_000);
    fs::write(shell.database(), &content).unwrap();
    for arguments in [
        &["list"][..],
        &["register", "--name", "a"],
        &["disable", "a"],
        &["rotate", "a"],
        &["delete", "a"],
    ] {
        assert!(shell.run(arguments).error().contains("trust-auth.db"));
        assert_eq!(shell.run(&[arguments, &["--json"]].concat()).failure(), "not_a_database");
    }
    assert_eq!(shell.verify_json(UNKNOWN_KEY).1["reason"], "unavailable");
    assert_eq!(fs::read_to_string(shell.database()).unwrap(), content);
    assert_eq!(fs::read_dir(shell.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_instead_of_a_database_is_refused() {
    let shell = Shell::new();
    fs::create_dir(shell.database()).unwrap();
    for arguments in [&["list"][..], &["register", "--name", "a"]] {
        assert!(shell.run(arguments).error().contains("trust-auth.db"));
        assert_eq!(shell.run(&[arguments, &["--json"]].concat()).failure(), "cannot_open");
    }
    assert_eq!(fs::read_dir(shell.database()).unwrap().count(), 0);
}

#[test]
fn a_missing_folder_is_not_created() {
    let shell = Shell::new();
    let file = shell.path().join("no/such/folder/trusts.db");
    let file = file.to_str().unwrap();
    for arguments in [&["list"][..], &["register", "--name", "a"]] {
        let arguments = [arguments, &["--database", file]].concat();
        assert!(shell.run(&arguments).error().contains("no/such/folder"));
        shell.run(&[&arguments[..], &["--json"]].concat()).failure();
    }
    shell.assert_untouched();
}

#[test]
fn a_parent_that_is_a_file_is_refused_and_unchanged() {
    let shell = Shell::new();
    let parent = shell.path().join("parent");
    fs::write(&parent, "content").unwrap();
    for arguments in [&["list"][..], &["register", "--name", "a"]] {
        let arguments = [arguments, &["--database", "parent/trusts.db"]].concat();
        assert!(shell.run(&arguments).error().contains("parent"));
        shell.run(&[&arguments[..], &["--json"]].concat()).failure();
    }
    assert_eq!(fs::read_to_string(parent).unwrap(), "content");
}

/// A process of root may write to any folder. Under root the test checks only that the program does
/// not panic.
#[cfg(unix)]
#[test]
fn an_unwritable_folder_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let shell = Shell::new();
    let folder = shell.path().join("sealed");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let everything_is_writable = fs::write(folder.join("probe"), "").is_ok();

    let ran = shell.run(&["register", "--name", "a", "--database", "sealed/trusts.db", "--json"]);
    if !everything_is_writable {
        assert_eq!(ran.failure(), "cannot_open");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_malformed_hash_causes_a_warning_without_its_content() {
    let (shell, key) = Shell::with_trust("a");
    let hash = trust_auth::KeyHash::of(&key).to_hex();
    let mut bytes = fs::read(shell.database()).unwrap();
    let at = bytes.windows(64).position(|window| window == hash.as_bytes()).unwrap();
    bytes[at] = b'!';
    fs::write(shell.database(), bytes).unwrap();

    let ran = shell.verify(key);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("api_key_hash") && ran.stderr.contains(&shell.id_despite_warnings("a")),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains(&hash[1..]));
}

impl Shell {
    /// Returns the id of the only trust, also if the program warns on standard error.
    fn id_despite_warnings(&self, name: &str) -> String {
        let listed: Value = serde_json::from_str(&self.run(&["list", "--json"]).stdout).unwrap();
        assert_eq!(listed["trusts"][0]["name"], name);
        listed["trusts"][0]["id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn wrong_usage_exits_with_2_and_touches_nothing() {
    let shell = Shell::new();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["--nonsense"],
        &["register"],
        &["register", "--name"],
        &["register", "a"],
        &["register", "--name", "a", "--code", ""],
        &["register", "--name", "a", "--region", ""],
        &["list", "a"],
        &["disable"],
        &["disable", "a", "b"],
        &["rotate"],
        &["delete"],
        &["list", "--database"],
        &["list", "--database", ""],
        &["completions"],
        &["completions", "cobol"],
    ] {
        let ran = shell.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(
            ran.stderr.contains("Usage:") || ran.stderr.contains("--help"),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
    let output = shell
        .command()
        .env("TRUST_AUTH_DATABASE", "")
        .args(["register", "--name", "a"])
        .output()
        .unwrap();
    assert_eq!(ProgramOutput::new(output).code, 2);
    shell.assert_untouched();
}

#[test]
fn help_explains_every_command() {
    let shell = Shell::new();
    let overview = shell.run(&["--help"]);
    assert_eq!((overview.code, overview.stderr.as_str()), (0, ""));
    for part in ["Exit codes", "--json", "--database", "TRUST_AUTH_DATABASE"] {
        assert!(overview.stdout.contains(part), "{part}");
    }
    for command in COMMANDS {
        assert!(overview.stdout.contains(&format!("\n  {command} ")), "{command}");
        let help = shell.run(&["help", command]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""));
        assert!(help.stdout.contains(&format!("Usage: trust-auth {command}")), "{}", help.stdout);
        if command != "help" {
            assert_eq!(shell.run(&[command, "--help"]).stdout, help.stdout);
        }
    }
    assert_eq!(shell.run(&["help"]).stdout, overview.stdout);
    assert_eq!(
        shell.run(&["--version"]).stdout,
        format!("trust-auth {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_program_without_arguments_prints_its_help_as_wrong_usage() {
    let shell = Shell::new();
    let overview = shell.run(&["--help"]).stdout;
    for database in [None, Some("postgres://admin:hunter2@db/trusts")] {
        let mut command = shell.command();
        command.envs(database.map(|url| ("TRUST_AUTH_DATABASE", url)));
        let output = ProgramOutput::new(command.output().unwrap());
        assert_eq!((output.code, &*output.stdout), (2, ""));
        assert_eq!(output.stderr.trim_end(), overview.trim_end());
    }
}

#[test]
fn a_mistyped_flag_is_named_also_with_verify() {
    let shell = Shell::new();
    for (arguments, mistake) in [
        (&["verify", "--jsn"][..], "unexpected argument '--jsn'"),
        (&["--jsn", "verify"], "unexpected argument '--jsn'"),
        (&["verify", "--database"], "a value is required for '--database <URL>'"),
        (&["register", "--name", "verify", "--bogus"], "unexpected argument '--bogus'"),
        (&["list", "--databse", "postgres://localhost/db"], "unexpected argument '--databse'"),
    ] {
        let output = shell.run(arguments);
        assert_eq!((output.code, &*output.stdout), (2, ""), "{arguments:?}");
        assert!(output.stderr.contains(mistake), "{arguments:?}: {}", output.stderr);
    }
    shell.assert_untouched();
}

/// Another program may have made keys of another form.
#[test]
fn verify_repeats_no_argument_that_may_be_a_key_of_any_form() {
    let shell = Shell::new();
    for arguments in [
        &["verify", "qq7"][..],
        &["verify", "--json=qq7"],
        &["verify", "--key=qq7"],
        &["verify", "--qq7"],
        &["verify", "-qq7"],
        &["verify", "--", "--qq"],
        &["qq7", "verify"],
        &["list", "qq7", "verify"],
    ] {
        let output = shell.run(arguments);
        assert_eq!((output.code, &*output.stdout), (2, ""), "{arguments:?}");
        let is_withheld = !output.stderr.contains("qq7") && !output.stderr.contains("'--qq'");
        assert!(is_withheld, "{arguments:?}: {}", output.stderr);
    }
    shell.assert_untouched();
}

#[test]
fn the_former_command_demo_names_the_program_that_replaced_it() {
    let output = Shell::new().run(&["demo", "--quick"]);
    assert_eq!((output.code, &*output.stdout), (2, ""));
    assert!(output.stderr.contains("cargo run --release -p trust-auth-demo"), "{}", output.stderr);
}

#[test]
fn the_error_about_another_kind_of_database_names_both_kinds() {
    let shell = Shell::new();
    for command in ["list", "migrate"] {
        let output = shell.run(&[command, "--database", "mysql://admin:hunter2@db/trusts"]);
        let error = output.error();
        assert!(error.contains("SQLite") && error.contains("PostgreSQL"), "{error}");
        assert!(error.contains("`mysql:`") && !error.contains("hunter2"), "{error}");
    }
    shell.assert_untouched();
}

/// The key is not above the remark if standard output is a file.
#[test]
fn the_remark_about_a_new_key_fits_a_standard_output_that_is_not_a_terminal() {
    let (shell, _) = Shell::with_trust("a");
    for arguments in [&["register", "--name", "b"][..], &["rotate", "a"]] {
        let remark = shell.run(arguments).stderr;
        assert!(remark.contains("was written to standard output"), "{remark}");
        assert!(!remark.to_lowercase().contains("above"), "{remark}");
    }
}

#[test]
fn completions_know_every_command_in_every_shell() {
    let shell = Shell::new();
    for name in ["bash", "zsh", "fish"] {
        let ran = shell.run(&["completions", name]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        for command in COMMANDS {
            assert!(ran.stdout.contains(command), "{name} {command}");
        }
        for flag in ["admin-key-sha256", "reject-floor", "waiting-limit", "drain-timeout"] {
            assert!(ran.stdout.contains(flag), "{name} {flag}");
        }
        let json = shell.run(&["completions", name, "--json"]).json();
        assert_eq!(json["shell"], name);
        assert_eq!(json["script"].as_str().unwrap().trim_end(), ran.stdout.trim_end());
    }
    shell.assert_untouched();
}

/// Runs the program with a closed standard output.
fn run_with_closed_output(shell: &Shell, arguments: &[&str], input: Option<&str>) -> ProgramOutput {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_trust-auth"))
        .args(arguments)
        .current_dir(shell.path())
        .env_remove("TRUST_AUTH_DATABASE")
        .stdin(std::process::Stdio::piped())
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
    }
    ProgramOutput::new(child.wait_with_output().unwrap())
}

#[test]
fn a_closed_standard_output_causes_no_panic_and_keeps_the_exit_code() {
    let (shell, key) = Shell::with_trust("a");
    for json in [&[][..], &["--json"]] {
        for (arguments, input, code) in [
            (&["list"][..], None, 0),
            (&["disable", "a"], None, 0),
            (&["enable", "a"], None, 0),
            (&["completions", "bash"], None, 0),
            (&["verify"], Some(&*key), 0),
            (&["verify"], Some(UNKNOWN_KEY), 1),
            (&["delete", "unknown"], None, 1),
        ] {
            let ran = run_with_closed_output(&shell, &[arguments, json].concat(), input);
            assert_eq!(ran.code, code, "{arguments:?} {}", ran.stderr);
        }
    }
    assert_eq!(run_with_closed_output(&shell, &["--help"], None).code, 0);
}

#[test]
fn a_new_key_that_was_not_shown_is_an_error_with_advice() {
    let (shell, _) = Shell::with_trust("a");
    for arguments in
        [&["rotate", "a"][..], &["register", "--name", "b"], &["register", "--name", "c", "--json"]]
    {
        let ran = run_with_closed_output(&shell, arguments, None);
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains("trust-auth rotate "), "{}", ran.stderr);
        assert!(!ran.stderr.split(|c: char| c.is_whitespace() || c == '`').any(is_a_key));
    }
}

#[test]
fn two_concurrent_registrations_both_succeed() {
    let shell = Shell::new();
    let keys: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> =
            ["a", "b"].map(|name| scope.spawn(|| shell.register(name))).into_iter().collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for key in keys {
        assert_eq!(shell.verify(key).code, 0);
    }
}

/// Writes a pepper into the shell's folder, and returns its file's name.
fn pepper_file(shell: &Shell, name: &'static str) -> &'static str {
    use std::os::unix::fs::PermissionsExt;
    let file = shell.path().join(name);
    fs::write(&file, format!("{}\n", name.repeat(32))).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    name
}

#[test]
fn a_pepper_is_adopted_and_rotated_on_the_command_line() {
    let (shell, plain) = Shell::with_trust("plain");
    let (a, b) = (pepper_file(&shell, "a"), pepper_file(&shell, "b"));
    let with_a = &["--pepper-file", a][..];
    let with_b = &["--pepper-file", b][..];
    let both = &["--pepper-file", b, "--former-pepper-file", a][..];
    let adopting = &["--pepper-file", a, "--accept-unpeppered"][..];
    let new_key = |arguments: &[&str], pepper: &[&str]| {
        let ran = shell.run(&[arguments, pepper].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.trim_end().to_owned()
    };
    let accepted = |key: &str| {
        [&[][..], with_a, with_b, both, adopting].map(|pepper| {
            let mut command = shell.command();
            command.arg("verify").args(pepper).write_stdin(key);
            let ran = ProgramOutput::new(command.output().unwrap());
            assert_eq!(ran.stderr, "");
            ran.code == 0
        })
    };
    assert_eq!(accepted(&plain), [true, false, false, false, true]);
    let of_a = new_key(&["register", "--name", "a"], with_a);
    assert_eq!(accepted(&of_a), [false, true, false, true, true]);
    let rotated = new_key(&["rotate", "plain"], adopting);
    assert_eq!(accepted(&rotated), [false, true, false, true, true]);
    assert_eq!(accepted(&plain), [false; 5]);
    let of_b = new_key(&["rotate", "plain"], both);
    assert_eq!(accepted(&of_b), [false, false, true, true, false]);

    // A key that exists, of a file; by the environment.
    fs::write(shell.path().join("key.txt"), "key of another program").unwrap();
    let mut command = shell.command();
    command.args(["register", "--name", "c", "--key-file", "key.txt"]);
    let ran = ProgramOutput::new(command.env("TRUST_AUTH_PEPPER_FILE", a).output().unwrap());
    assert_eq!((ran.code, &*ran.stderr), (0, ""));
    assert_eq!(accepted("key of another program"), [false, true, false, true, true]);
    // Another trust has it with the former pepper.
    let again = ["register", "--name", "d", "--key-file", "key.txt", "--json"];
    assert_eq!(shell.run(&[&again[..], both].concat()).failure(), "key_taken");
}

#[test]
fn peppers_that_do_not_fit_are_wrong_usage_and_not_repeated() {
    let shell = Shell::new();
    let (a, b) = (pepper_file(&shell, "a"), pepper_file(&shell, "b"));
    fs::copy(shell.path().join(a), shell.path().join("copy")).unwrap();
    fs::write(shell.path().join("short"), "hunter2").unwrap();
    let digest = KeyHash::of("key").to_hex();
    let pasted = "+XUqEBkEoCBsRJlI8E4Y9CdVZ3B1dEcrSDBGZ2pSbUE=";
    for (arguments, code, told) in [
        (&["--pepper-file", a, "--former-pepper-file", a][..], 2, "--former-pepper-file: the"),
        (&["--pepper-file", a, "--former-pepper-file", "copy"], 2, "is the current one"),
        (&["--former-pepper-file", a], 2, "--pepper-file"),
        (&["--pepper-file", "short"], 2, "openssl rand -base64 32"),
        (&["--pepper-file", b, "--former-pepper-file", "short"], 2, "--former-pepper-file: "),
        (&["--pepper-file", "gone"], 1, "--pepper-file: the pepper file cannot be read"),
        (&["--pepper-file", pasted], 1, "No such file"),
    ] {
        for command in [&["register", "--name", "a"][..], &["verify"], &["serve"]] {
            let ran = shell.run(&[command, arguments].concat());
            assert_eq!((ran.code, &*ran.stdout), (code, ""), "{arguments:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(told), "{arguments:?}: {}", ran.stderr);
            for secret in ["hunter2", &pasted[..8], "aaaa"] {
                assert!(!ran.stderr.contains(secret), "{}", ran.stderr);
            }
        }
    }
    // The digest of a key without the pepper.
    let register = ["register", "--name", "a", "--key-sha256", &digest, "--pepper-file", a];
    let ran = shell.run(&register);
    assert_eq!((ran.code, &*ran.stdout), (2, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("--accept-unpeppered"), "{}", ran.stderr);
    assert!(!shell.database().exists());
    assert_eq!(shell.run(&[&register[..], &["--accept-unpeppered"]].concat()).code, 0);
}

#[test]
fn a_trust_has_several_keys_and_each_is_listed_and_revoked_by_its_id() {
    let (shell, own) = Shell::with_trust("St. Mary");
    let ran = shell.run(&["key", "add", "St. Mary", "--label", "laboratory", "--expires", "12d"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let key = ran.stdout.trim_end().to_owned();
    assert!(ran.stderr.contains(", until 2"), "{}", ran.stderr);
    for key in [&own, &key] {
        assert_eq!(shell.verify(key.as_str()).code, 0);
    }
    let listed = shell.run(&["key", "list", "St. Mary"]).stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].contains("of the trust's row"), "{listed}");
    assert!(lines[2].contains("laboratory") && lines[2].contains("active"), "{listed}");
    assert!(lines[2].contains("(in 11days") || lines[2].contains("(in 12days"), "{listed}");
    assert!(lines[2].contains(&key[key.len() - 4..]) && !lines[2].contains(&key), "{listed}");

    let json = shell.run(&["key", "list", "St. Mary", "--json"]).json();
    let id = json["keys"][0]["id"].as_str().unwrap().to_owned();
    let ran = shell.run(&["key", "revoke", &id]);
    assert_eq!((ran.code, ran.stdout.contains("Revoked a key of St. Mary")), (0, true));
    assert_eq!((shell.verify(own.as_str()).code, shell.verify(key.as_str()).code), (0, 1));
    let json = shell.run(&["key", "list", "St. Mary", "--json"]).json();
    let revoked_at = json["keys"][0]["revoked_at"].clone();
    assert!(revoked_at.is_string(), "{json}");
    // A second revocation keeps the time of the first.
    assert_eq!(shell.run(&["key", "revoke", &id]).code, 0);
    let json = shell.run(&["key", "list", "St. Mary", "--json"]).json();
    assert_eq!(json["keys"][0]["revoked_at"], revoked_at);
    assert!(shell.run(&["key", "list", "St. Mary"]).stdout.contains("revoked"));
}

#[test]
fn a_key_that_exists_is_added_once() {
    let (shell, _) = Shell::with_trust("St. Mary");
    let digest = KeyHash::of("the key of another service").to_hex();
    let ran = shell.run(&["key", "add", "St. Mary", "--key-sha256", &digest, "--json"]);
    assert_eq!(ran.json().get("api_key"), None);
    assert_eq!(shell.verify("the key of another service").code, 0);
    let labelled = ["--key-file", "key.txt", "--label", "second", "--expires", "90d", "--json"];
    let other = "another key, of 32 characters or more: abcd";
    fs::write(shell.path().join("key.txt"), format!("{other}\n")).unwrap();
    let ran = shell.run(&[&["key", "add", "St. Mary"][..], &labelled].concat()).json();
    assert_eq!(
        (&ran["key"]["label"], &ran["key"]["last_four"]),
        (&"second".into(), &"abcd".into())
    );
    assert!(ran["key"]["expires_at"].is_string() && ran.get("api_key").is_none(), "{ran}");
    assert_eq!(shell.verify(other).code, 0);
    let again = shell.run(&["key", "add", "St. Mary", "--key-sha256", &digest, "--json"]);
    assert_eq!(again.failure(), "key_taken");
}

#[test]
fn a_rotation_ends_every_key_at_once_or_after_the_overlap() {
    let (shell, own) = Shell::with_trust("St. Mary");
    let added = shell.run(&["key", "add", "St. Mary"]).stdout.trim_end().to_owned();
    let ran = shell.run(&["rotate", "St. Mary", "--overlap", "24h", "--label", "second"]);
    assert!(ran.stderr.contains("The old keys are accepted until 2"), "{}", ran.stderr);
    let second = ran.stdout.trim_end().to_owned();
    for key in [&own, &added, &second] {
        assert_eq!(shell.verify(key.as_str()).code, 0);
    }
    let expiring = shell.run(&["list", "--expiring", "2d"]);
    assert_eq!(expiring.code, 1, "{expiring:?}");
    assert!(expiring.stdout.contains("St. Mary") && expiring.stderr.contains("ends within 2days"));
    let none = shell.run(&["list", "--expiring", "1h"]);
    assert_eq!((none.code, &*none.stderr), (0, ""), "{none:?}");
    assert_eq!(none.stdout, "No key ends within 1h.\n");

    let third = shell.run(&["rotate", "St. Mary"]).stdout.trim_end().to_owned();
    for key in [&own, &added, &second] {
        assert_eq!(shell.verify(key.as_str()).code, 1);
    }
    assert_eq!(shell.verify(third.as_str()).code, 0);
}

#[test]
fn a_trust_whose_only_key_has_ended_is_listed_as_expiring_until_it_has_a_key() {
    let (shell, _) = Shell::with_trust("has a key");
    let expiring = || shell.run(&["list", "--expiring", "1h"]);
    let key = shell.run(&["register", "--name", "St. Mary", "--expires", "1s"]).stdout;
    assert_eq!(expiring().code, 1);
    while shell.verify(key.trim_end()).code == 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = expiring();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.contains("St. Mary") && !ended.stdout.contains("has a key"), "{ended:?}");
    let json = shell.run(&["key", "list", "St. Mary", "--json"]).json();
    let id = json["keys"][0]["id"].as_str().unwrap();
    // A key that was revoked was meant to end.
    assert_eq!(shell.run(&["key", "revoke", id]).code, 0);
    assert_eq!(expiring().code, 0);
}

/// The trust's other key is accepted, and its client may have the one that has ended.
#[test]
fn a_key_that_has_ended_next_to_another_one_is_named_until_it_is_revoked() {
    let (shell, own) = Shell::with_trust("St. Mary");
    let arguments = ["key", "add", "St. Mary", "--label", "laboratory", "--expires", "1s"];
    let key = shell.run(&arguments).stdout;
    while shell.verify(key.trim_end()).code == 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    let json = shell.run(&["key", "list", "St. Mary", "--json"]).json();
    let id = json["keys"][0]["id"].as_str().unwrap();
    let expiring = || shell.run(&["list", "--expiring", "1h"]);
    let ended = expiring();
    assert_eq!((ended.code, &*ended.stdout), (0, "No key ends within 1h.\n"), "{ended:?}");
    let named = format!("ended: the key {id} (laboratory) of St. Mary, at ");
    assert!(ended.stderr.starts_with(&named) && ended.stderr.lines().count() == 1, "{ended:?}");
    let json = shell.run(&["list", "--expiring", "1h", "--json"]).json();
    assert_eq!(
        (&json["trusts"], &json["ended"][0]["id"]),
        (&serde_json::json!([]), &id.into()),
        "{json}"
    );
    assert!(shell.run(&["list", "--json"]).json().get("ended").is_none());
    // It ended before that time, or its trust is disabled.
    while !shell.run(&["list", "--expiring", "1s"]).stderr.is_empty() {
        std::thread::sleep(Duration::from_millis(100));
    }
    shell.run(&["disable", "St. Mary"]);
    assert_eq!(expiring().stderr, "");
    shell.run(&["enable", "St. Mary"]);
    assert_eq!(shell.verify(own.as_str()).code, 0);
    assert!(expiring().stderr.starts_with(&named));
    assert_eq!(shell.run(&["key", "revoke", id]).code, 0);
    assert_eq!(expiring().stderr, "");
}

#[test]
fn a_trust_is_registered_with_an_end_and_attributes() {
    let shell = Shell::new();
    let attributes = r#"{"scopes":["read"]}"#;
    let arguments = ["register", "--name", "a", "--expires", "90d", "--attributes", attributes];
    let ran = shell.run(&[&arguments[..], &["--json"]].concat()).json();
    assert_eq!(ran["trust"]["attributes"]["scopes"][0], "read");
    assert!(ran["trust"]["keys"][0]["expires_at"].is_string(), "{ran}");
    assert_eq!(shell.verify(ran["api_key"].as_str().unwrap()).code, 0);
}

#[test]
fn attributes_are_replaced_as_a_whole_from_an_argument_or_standard_input_and_removed() {
    let (shell, key) = Shell::with_trust("St. Mary");
    let shown = || shell.run(&["list", "--json"]).json()["trusts"][0]["attributes"].clone();
    let ran = shell.run(&["set-attributes", "St. Mary", "{\"scopes\":[\"read\"],\"a\":1}"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("Changed the attributes of St. Mary ("), "{}", ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 1);
    assert_eq!(shown(), serde_json::json!({ "scopes": ["read"], "a": 1 }));

    let mut command = shell.command();
    command.args(["set-attributes", &shell.id_of("St. Mary"), "-", "--json"]);
    let ran = ProgramOutput::new(command.write_stdin("{\"b\":2}\n").output().unwrap());
    assert_eq!(ran.json()["trust"]["attributes"], serde_json::json!({ "b": 2 }));
    assert_eq!(shown(), serde_json::json!({ "b": 2 }));

    for (arguments, input, part) in [
        (&[][..], "", "required"),
        (&["{}", "--clear"], "", "cannot be used with"),
        (&["[]"], "", "it is no object"),
        (&["{"], "", "it is no JSON"),
        (&["-"], "[1]", "it is no object"),
        (&["-"], "", "it is no JSON"),
        (&["-"], &format!("{{\"a\":\"{key}\"}}"), "it looks like an API key"),
        (&[&*format!("{{\"a\":\"{key}\"}}")], "", "looks like an API key"),
    ] {
        let mut command = shell.command();
        command.args(["set-attributes", "St. Mary"]).args(arguments);
        let ran = ProgramOutput::new(command.write_stdin(input).output().unwrap());
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains(&key), "{}", ran.stderr);
    }
    assert_eq!(shown(), serde_json::json!({ "b": 2 }));
    let ran = shell.run(&["set-attributes", "Unknown", "{}", "--json"]);
    assert_eq!((ran.code, &ran.json()["error"]["kind"]), (1, &"no_such_trust".into()));

    let ran = shell.run(&["set-attributes", "St. Mary", "--clear"]);
    assert!(ran.stdout.starts_with("Removed the attributes of St. Mary ("), "{}", ran.stderr);
    assert_eq!(shown(), Value::Null);
    assert_eq!(shell.verify(key).code, 0);
}

#[test]
fn wrong_arguments_about_keys_say_what_to_do_and_repeat_no_key() {
    let (shell, key) = Shell::with_trust("St. Mary");
    for arguments in [
        &["rotate", "St. Mary", "--overlap", "0s"][..],
        &["rotate", "St. Mary", "--overlap", "-1h"],
        &["rotate", "St. Mary", "--expires", "1000years"],
        &["key", "add", "St. Mary", "--expires", "90"],
        &["key", "add", "St. Mary", "--label", ""],
        &["key", "add", "St. Mary", "--label", &key],
        &["key", "revoke", &key],
        &["key", "revoke", "laboratory"],
        &["list", "--expiring", "soon"],
        &["register", "--name", "a", "--attributes", "[1]"],
        &["register", "--name", "a", "--attributes", "{"],
    ] {
        let ran = shell.run(arguments);
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.contains(&key), "{ran:?}");
    }
    let unknown = uuid::Uuid::nil().to_string();
    assert_eq!(shell.run(&["key", "revoke", &unknown, "--json"]).failure(), "no_such_key");
    assert_eq!(shell.run(&["key", "add", "unknown", "--json"]).failure(), "no_such_trust");
    assert_eq!(shell.run(&["key", "list", "unknown", "--json"]).failure(), "no_such_trust");
    assert_eq!(shell.verify(key.as_str()).code, 0);
}

#[test]
fn the_service_finds_by_an_index_only_if_there_is_one() {
    let (shell, _) = Shell::with_trust("a");
    let serve = ["serve", "--find-by", "index", "--listen", "127.0.0.1:0", "--json"];
    let serve = [&serve[..], &["--admin-listen", "off"]].concat();
    // A service that starts does not end.
    let mut command = shell.command();
    command.args(&serve).timeout(Duration::from_secs(60));
    let ran = ProgramOutput::new(command.output().unwrap());
    assert_eq!((ran.code, &*ran.failure()), (1, "no_index"));
    let sql = "CREATE INDEX trust_api_key_hash ON trust (api_key_hash);\n\
               CREATE INDEX trust_key_digest ON trust_key (digest);";
    let told = ran.stdout.contains("CREATE INDEX trust_key_digest ON trust_key (digest);")
        && ran.stdout.contains("migrate --find-by-index");
    assert!(told, "{}", ran.stdout);

    let before = fs::read(shell.database()).unwrap();
    assert_eq!(shell.run(&["migrate", "--find-by-index", "--dry-run"]).stdout.trim_end(), sql);
    assert!(fs::read(shell.database()).unwrap() == before);
    assert!(shell.run(&["migrate"]).stdout.contains("Nothing to do"));
    let ran = shell.run(&["migrate", "--find-by-index"]);
    assert_eq!(
        (ran.code, ran.stdout.trim_end()),
        (0, "Added the index `trust_api_key_hash`, the index `trust_key_digest`.")
    );
    assert!(shell.run(&["migrate", "--find-by-index"]).stdout.contains("Nothing to do"));

    // A script for an empty file makes the table first.
    let empty = Shell::new();
    fs::write(empty.database(), "").unwrap();
    let script = empty.run(&["migrate", "--find-by-index", "--dry-run"]).stdout;
    assert!(script.find("CREATE TABLE trust") < script.find(sql), "{script}");
    assert_eq!(
        empty.run(&["migrate", "--find-by-index", "--json"]).json()["migration"]["sql"],
        script
    );
}
