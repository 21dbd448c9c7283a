//! The OpenAPI document that the program prints. `admin_statuses` compares each error of the
//! service with the document, and `scripts/openapi_fuzz.py` compares the other answers.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::server::command;

fn printed(arguments: &[&str]) -> String {
    let output = command(Path::new("/")).args(arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::from_str(&printed(&["openapi"])).unwrap())
}

/// Returns the operation of this method and path, if there is one.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
    let path = path.split('?').next().unwrap();
    let paths = document()["paths"].as_object().unwrap().iter();
    let mut matching = paths.filter(|(template, _)| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(one, other)| one == other || one == "{trust}")
    });
    matching.find_map(|(_, methods)| methods.get(&method))
}

/// Asserts that the document has an error of this status and kind, if it has the operation.
pub(crate) fn assert_documented(method: &str, path: &str, status: u16, kind: &str) {
    let Some(operation) = operation(method, path) else {
        assert!([401, 403, 404, 405].contains(&status), "{method} {path}: {status}");
        return;
    };
    if operation["security"].is_array() {
        return;
    }
    // No path with an empty last part is a trust's.
    if kind == "no_such_path" {
        return;
    }
    let kinds = &operation["responses"][status.to_string()]["x-error-kinds"];
    let kinds = kinds.as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(kinds.iter().any(|known| known == kind), "{method} {path}: {status} {kind}: {kinds:?}");
}

#[test]
fn the_document_is_the_same_on_one_line_and_has_no_key_of_a_trust() {
    let (text, line) = (printed(&["openapi"]), printed(&["--json", "openapi"]));
    assert!(text.ends_with("}\n") && text.lines().count() > 100, "{text}");
    assert_eq!(line.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), *document());
    let keys = text.split('"').filter(|text| trust_auth::ApiKey::may_be_in(text));
    for key in keys {
        assert!(key.starts_with("tak_EXAMPLE"), "{key}");
    }
}
