//! The files in `monitoring/`: the dashboard and the alert rules ask only for metrics, labels and
//! values that a service has.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::postgres_server::PostgresServer;
use crate::promql::{Query, Scrape};
use crate::server::Server;

const ALERTS: &str = include_str!("../../monitoring/alerts.yml");

/// Returns all panels, without the rows, which are not collapsed and hold none.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let (rows, panels): (Vec<_>, Vec<_>) =
        dashboard["panels"].as_array().unwrap().iter().partition(|panel| panel["type"] == "row");
    assert!(rows.iter().all(|row| row["panels"] == json!([])), "a collapsed row");
    panels
}

fn dashboard() -> Value {
    serde_json::from_str(include_str!("../../monitoring/dashboard.json")).unwrap()
}

/// Returns the expressions of the alert rules, each on its line or in the block below it.
fn alert_expressions() -> Vec<String> {
    let mut lines = ALERTS.lines().peekable();
    let mut expressions = Vec::new();
    let indent = |line: &str| line.len() - line.trim_start().len();
    while let Some(line) = lines.next() {
        match line.trim_start().strip_prefix("expr: ") {
            Some("|-") => {
                let mut block = String::new();
                while let Some(next) = lines.next_if(|next| indent(next) > indent(line)) {
                    block.push_str(next);
                }
                expressions.push(block);
            }
            Some(expression) => expressions.push(expression.to_owned()),
            None => {}
        }
    }
    expressions
}

fn alerts() -> BTreeSet<&'static str> {
    let names = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.collect()
}

/// A failed change is counted by the kind of its error, from the first failure on.
fn is_kind_of_failure(metric: &str, label: &str, value: &str) -> bool {
    let errors = include_str!("../../../trust-auth/src/error.rs");
    metric == "trust_auth_admin_requests_total"
        && label == "outcome"
        && errors.contains(&format!("=> \"{value}\","))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_name_only_what_a_service_has() {
    let Some(database) = PostgresServer::shared() else { return };
    let url = database.new_database();
    // All metrics: some exist on PostgreSQL alone, and some with a read lease alone.
    let server = Server::on(&url, &["--migrate", "--read-lease", "2s"]).await;
    server.until_metric("trust_auth_read_lease_valid", |valid| valid == 1.0).await;
    let scrape = Scrape::of(server.metrics().await.keys());
    server.stop().await;

    let mut flaws = Vec::new();
    let dashboard = dashboard();
    let mut queries = 0;
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().unwrap() {
            let query = Query::parse(target["expr"].as_str().unwrap());
            for flaw in scrape.flaws(&query, |_, _, _| false) {
                flaws.push(format!("{}: {flaw}", panel["title"]));
            }
            // Otherwise Grafana shows an empty name.
            for part in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
                let label = part.split_once("}}").unwrap().0;
                if !query.by.contains(label) {
                    flaws.push(format!("{}: the legend's {label} is not in `by`", panel["title"]));
                }
            }
            queries += 1;
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let query = variable["query"]["query"].as_str().unwrap();
            let (series, label) = query
                .strip_prefix("label_values(")
                .and_then(|query| query.strip_suffix(')'))
                .and_then(|query| query.rsplit_once(", "))
                .unwrap_or_else(|| panic!("{query}"));
            let of_series = format!("sum by ({label}) ({series})");
            flaws.extend(scrape.flaws(&Query::parse(&of_series), |_, _, _| false));
            queries += 1;
        }
    }
    assert!(queries > 30, "{queries}");

    let expressions = alert_expressions();
    assert_eq!(expressions.len(), alerts().len());
    for expression in expressions {
        flaws.extend(scrape.flaws(&Query::parse(&expression), is_kind_of_failure));
    }
    assert!(flaws.is_empty(), "{flaws:#?}");
}

#[test]
fn every_panel_has_a_unit_a_description_and_the_data_source_of_the_variable() {
    let dashboard = dashboard();
    let mut identifiers = BTreeSet::new();
    let alerts = alerts();
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert!(identifiers.insert(panel["id"].as_u64().unwrap()), "{title}");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(unit.is_some_and(|unit| !unit.is_empty()), "{title}");
        for part in [&panel["datasource"], &panel["targets"][0]["datasource"]] {
            assert_eq!(part["uid"], "${datasource}", "{title}");
        }
        let description = panel["description"].as_str().unwrap();
        assert!(!description.is_empty(), "{title}");
        for word in description.split(|c: char| !c.is_ascii_alphanumeric()) {
            assert!(!word.starts_with("TrustAuth") || alerts.contains(word), "{title}: {word}");
        }
    }
}

#[test]
fn every_alert_has_a_test_of_its_state() {
    let tests = include_str!("../../monitoring/alerts_test.yml");
    for alert in alerts() {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} has no test");
    }
}
