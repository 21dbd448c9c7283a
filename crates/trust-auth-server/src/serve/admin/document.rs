//! [`document`]: the OpenAPI document of the admin listener. The routes bring their paths, and this
//! file adds what all of them have in common.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::info::{InfoBuilder, LicenseBuilder};
use utoipa::openapi::link::{Link, LinkBuilder};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::{Tag, TagBuilder};
use utoipa::openapi::{
    ComponentsBuilder, HeaderBuilder, OpenApi, OpenApiBuilder, OpenApiVersion, PathItem, RefOr,
};
use utoipa::{PartialSchema, ToSchema};

use crate::json::ErrorJson;
use crate::serve::probe_routes;

/// The name of the security scheme.
const ADMIN_KEY: &str = "admin_key";

/// The operation whose answer has a new trust.
const REGISTRATION: &str = "register_trust";

/// Where that answer has the id.
const ID_OF_NEW_TRUST: &str = "$response.body#/trust/id";

/// The operation whose answer has a new key of a trust.
const ADDITION: &str = "add_key";

/// Where that answer has the key's id.
const ID_OF_NEW_KEY: &str = "$response.body#/key/id";

const DESCRIPTION: &str = "\
Registers, lists, changes and deletes trusts and their keys. A trust is a tenant with API keys.

`GET` also answers `HEAD`, without a body. A path that does not exist gets 404 with the kind \
`no_such_path`, and a method that a path does not have gets 405 with `no_such_method` and `Allow`. \
Both need the key. Bytes that are no HTTP/1.1 request get 400, and headers that are too large get \
431, both without a body. Before the database is open, each request with the key gets 503.

Kinds of errors may be added. Treat an unknown kind by its status.";

/// Returns the document.
pub(crate) fn document() -> OpenApi {
    let mut api = OpenApiBuilder::new()
        .openapi(OpenApiVersion::Version31)
        .info(
            InfoBuilder::new()
                .title("trust-auth admin API")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .license(Some(
                    LicenseBuilder::new()
                        .name("MIT OR Apache-2.0")
                        .identifier(Some("MIT OR Apache-2.0"))
                        .build(),
                ))
                .build(),
        )
        .servers(Some([ServerBuilder::new()
            .url("http://127.0.0.1:8081")
            .description(Some("The default of `--admin-listen`"))
            .build()]))
        .tags(Some([
            tag("trusts", "Trusts, and the rotation of their keys"),
            tag("keys", "The keys of a trust"),
            tag("probes", "Probes and metrics, which need no key"),
        ]))
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme(ADMIN_KEY, admin_key())
                .schemas_from_iter(error_schemas())
                .build(),
        ))
        .security(Some([SecurityRequirement::new(ADMIN_KEY, Vec::<String>::new())]))
        .build();
    api.merge(super::api().into_openapi());
    let of_trust = links(&mut api, "trust", ID_OF_NEW_TRUST);
    let of_key = links(&mut api, "key", ID_OF_NEW_KEY);
    for operation in api.paths.paths.values_mut().flat_map(operations) {
        add_no_store(operation);
        let links = match operation.operation_id.as_deref() {
            Some(REGISTRATION) => &of_trust,
            Some(ADDITION) => &of_key,
            _ => continue,
        };
        if let Some(RefOr::T(created)) = operation.responses.responses.get_mut("201") {
            created.links.extend(links.clone());
        }
    }
    api.merge(probe_routes::document());
    api
}

fn admin_key() -> SecurityScheme {
    let description = "The admin key, whose SHA-256 the service gets by `--admin-key-sha256`";
    SecurityScheme::Http(
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build(),
    )
}

fn tag(name: &str, description: &str) -> Tag {
    TagBuilder::new().name(name).description(Some(description)).build()
}

/// Returns the schemas that only the refusals refer to.
fn error_schemas() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = vec![(ErrorJson::name().into_owned(), ErrorJson::schema())];
    ErrorJson::schemas(&mut schemas);
    schemas
}

/// Returns the operations of a path.
fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.post, &mut path.patch, &mut path.delete].into_iter().flatten()
}

/// Adds the header that the guard adds to each answer: an answer may have a new key.
fn add_no_store(operation: &mut Operation) {
    let header = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .example(Some(json!("no-store")))
        .build();
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.headers.insert("Cache-Control".to_owned(), header.clone().into());
        }
    }
}

/// Returns a link from an answer, which has the parameter, to each operation that needs it.
fn links(api: &mut OpenApi, parameter: &str, from: &str) -> BTreeMap<String, RefOr<Link>> {
    let needed = format!("{{{parameter}}}");
    let paths = api.paths.paths.iter_mut().filter(|(path, _)| path.contains(&needed));
    let operations = paths.flat_map(|(_, path)| operations(path));
    let ids = operations.filter_map(|operation| operation.operation_id.clone());
    ids.map(|id| {
        let link = LinkBuilder::new().operation_id(&*id).parameter(parameter, from);
        (id, link.build().into())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::serve::drain::Drain;
    use crate::serve::log_queue::LogQueue;
    use crate::serve::meters::Meters;
    use crate::serve::probes::ReadinessProbes;

    type Routes = BTreeMap<String, BTreeSet<String>>;

    /// Returns the paths of the admin listener's router, each with its methods. axum lists them in
    /// its `Debug` form alone.
    fn routes_of_the_router() -> Routes {
        let meters = Arc::new(Meters::new(LogQueue::start(std::io::sink()).unwrap()));
        let probes = Arc::new(ReadinessProbes::new(Drain::new()));
        let probes = probe_routes::routes(&probes, Some(&meters));
        let printed = format!("{:#?}", crate::serve::admin::unguarded(probes));
        let (mut id, mut methods, mut routes) = ("", BTreeMap::new(), Routes::new());
        let lines = printed.lines().map(str::trim);
        for line in lines.take_while(|line| !line.starts_with("fallback_router")) {
            if let Some(number) = line.strip_suffix(',').filter(|text| text.parse::<u32>().is_ok())
            {
                id = number;
            } else if let Some(allowed) = line.strip_prefix("b\"") {
                methods.insert(id, allowed.trim_end_matches("\","));
            } else if let Some(path) = line.strip_prefix("): \"") {
                let allowed = methods[id].split(',').map(str::to_owned).collect();
                routes.insert(path.trim_end_matches("\",").to_owned(), allowed);
            }
        }
        routes
    }

    fn json() -> Value {
        serde_json::to_value(document()).unwrap()
    }

    fn operations_of(document: &Value) -> Vec<(String, String, Value)> {
        let mut all = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                all.push((path.clone(), method.to_uppercase(), operation.clone()));
            }
        }
        all
    }

    #[test]
    fn the_document_has_the_paths_and_methods_of_the_router() {
        let mut documented = Routes::new();
        for (path, method, _) in operations_of(&json()) {
            let methods = documented.entry(path).or_default();
            if method == "GET" {
                methods.insert("HEAD".to_owned());
            }
            methods.insert(method);
        }
        assert_eq!(documented, routes_of_the_router());
        assert_eq!(documented.len(), 10);
    }

    #[test]
    fn each_operation_is_described_with_examples_and_needs_the_key_unless_it_is_a_probe() {
        let document = json();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["security"], json!([{ ADMIN_KEY: [] }]));
        let scheme = &document["components"]["securitySchemes"][ADMIN_KEY];
        assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
        let mut ids = BTreeSet::new();
        for (path, method, operation) in operations_of(&document) {
            let what = format!("{method} {path}");
            for member in ["summary", "description", "operationId"] {
                assert!(operation[member].is_string(), "{what}: {member}");
            }
            assert!(ids.insert(operation["operationId"].to_string()), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            let is_api = path.starts_with("/admin");
            assert_eq!(operation["security"] == Value::Null, is_api, "{what}");
            for status in ["401", "403", "503"] {
                assert!(!is_api || responses.contains_key(status), "{what}: {status}");
            }
            for (status, response) in responses.iter().filter(|_| is_api) {
                let json = &response["content"]["application/json"];
                assert!(json["schema"].is_object(), "{what}: {status}");
                assert!(json["example"].is_object(), "{what}: {status}");
                assert_eq!(response["headers"]["Cache-Control"]["example"], "no-store");
            }
            let revokes = ["disable", "rotate", "revoke"].iter().any(|word| path.ends_with(word));
            let revokes = revokes || ["DELETE", "PATCH"].contains(&&*method);
            assert_eq!(responses.contains_key("202"), revokes, "{what}");
        }
    }

    #[test]
    fn each_reference_and_each_link_has_its_target() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = json();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let target = document.pointer(reference.trim_start_matches('#'));
            assert!(target.is_some(), "{reference}");
        }
        let links = &document["paths"]["/admin/trusts"]["post"]["responses"]["201"]["links"];
        assert_eq!(links.as_object().unwrap().len(), 8, "{links:#}");
        let keys = &document["paths"]["/admin/trusts/{trust}/keys"]["post"];
        let links = &keys["responses"]["201"]["links"];
        assert_eq!(links.as_object().unwrap().len(), 1, "{links:#}");
    }
}
