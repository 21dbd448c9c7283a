//! [`Query`]: the metrics and labels that a query of Prometheus names, and [`Scrape`]: those that a
//! service has.
//!
//! The rule is exact for the queries of this repository, and refuses what it does not know: a name
//! outside of braces, brackets and quotes is a keyword, a function of a short list, or a metric.

use std::collections::{BTreeMap, BTreeSet};

/// Functions and aggregations that are not metrics. A new one must be added here.
const FUNCTIONS: [&str; 7] =
    ["count", "histogram_quantile", "increase", "max", "min", "rate", "sum"];

/// Labels that Prometheus adds to each series.
const ADDED: [&str; 2] = ["instance", "job"];

/// What a query names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) metrics: Vec<Selected>,
    /// The labels of each `by (..)`.
    pub(crate) by: BTreeSet<String>,
}

/// A metric of a query, with its matchers: a label and the values that it is compared with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) name: String,
    pub(crate) matchers: Vec<(String, Vec<String>)>,
}

impl Query {
    /// Reads a query.
    ///
    /// # Panics
    ///
    /// If the query has a quote, a brace, a bracket or a parenthesis that is not closed.
    pub(crate) fn parse(mut rest: &str) -> Self {
        let mut query = Self::default();
        while let Some(first) = rest.chars().next() {
            let length = rest.find(|c: char| !is_of_a_name(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length.max(first.len_utf8()));
            rest = after;
            match first {
                '{' => {
                    let (matchers, after) = split_at_end(rest, '}');
                    let selected = query.metrics.last_mut().expect("braces without a metric");
                    selected.matchers = parse_matchers(matchers);
                    rest = after;
                }
                '[' => rest = split_at_end(rest, ']').1,
                'a'..='z' | 'A'..='Z' | '_' | ':' => match word {
                    "by" => {
                        let list = rest.trim_start().strip_prefix('(').expect("a list of labels");
                        let (labels, after) = split_at_end(list, ')');
                        query.by.extend(labels.split(',').map(|label| label.trim().to_owned()));
                        rest = after;
                    }
                    "or" => {}
                    _ if FUNCTIONS.contains(&word) => {}
                    _ => query.metrics.push(Selected { name: word.to_owned(), matchers: vec![] }),
                },
                // Numbers, operators, parentheses, commas and white space name nothing.
                _ => {}
            }
        }
        query
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

fn split_at_end(text: &str, end: char) -> (&str, &str) {
    text.split_once(end).unwrap_or_else(|| panic!("no {end} in {text}"))
}

/// Reads `label="value"`, with any operator, separated by commas.
fn parse_matchers(mut rest: &str) -> Vec<(String, Vec<String>)> {
    let mut matchers = Vec::new();
    while let Some((head, value_and_rest)) = rest.split_once('"') {
        let (value, after) = split_at_end(value_and_rest, '"');
        let label = head.trim_matches(|c: char| !is_of_a_name(c)).to_owned();
        matchers.push((label, value.split('|').map(str::to_owned).collect()));
        rest = after;
    }
    assert_eq!(rest.trim(), "", "more than matchers");
    matchers
}

/// The metrics of a service, with their labels and the values of these.
pub(crate) struct Scrape(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Scrape {
    /// Reads the names of samples, such as `a_total{kind="timeout"}`.
    pub(crate) fn of<'a>(samples: impl IntoIterator<Item = &'a String>) -> Self {
        let mut metrics: BTreeMap<_, BTreeMap<_, BTreeSet<_>>> = BTreeMap::new();
        for selected in samples.into_iter().flat_map(|sample| Query::parse(sample).metrics) {
            let labels = metrics.entry(selected.name).or_default();
            for (label, values) in selected.matchers {
                labels.entry(label).or_default().extend(values);
            }
        }
        Self(metrics)
    }

    /// Returns what is wrong with the query: a metric, a label or a value that the service does not
    /// have. `has_value` accepts a value that the service has only at times.
    pub(crate) fn flaws(
        &self,
        query: &Query,
        has_value: impl Fn(&str, &str, &str) -> bool,
    ) -> Vec<String> {
        let mut flaws = Vec::new();
        if query.metrics.is_empty() {
            flaws.push("no metric".to_owned());
        }
        for Selected { name, matchers } in &query.metrics {
            let Some(labels) = self.0.get(name) else {
                flaws.push(format!("no metric {name}"));
                continue;
            };
            for (label, values) in matchers.iter().filter(|(label, _)| !is_added(label)) {
                let Some(known) = labels.get(label) else {
                    flaws.push(format!("{name} has no label {label}"));
                    continue;
                };
                for value in values {
                    if !known.contains(value) && !has_value(name, label, value) {
                        flaws.push(format!("{name} has no {label}={value:?}"));
                    }
                }
            }
            for label in query.by.iter().filter(|label| !is_added(label)) {
                if !labels.contains_key(label) {
                    flaws.push(format!("{name} has no label {label}, which `by` names"));
                }
            }
        }
        flaws
    }
}

fn is_added(label: &str) -> bool {
    ADDED.contains(&label)
}

#[test]
fn a_query_is_read_to_its_metrics_matchers_and_labels() {
    let query = Query::parse(
        r#"histogram_quantile(0.99, sum by (le, route) (
            rate(a_bucket{job=~"$job", route="hit"}[5m])
        )) or (b == 1e3)"#,
    );
    let selected = |name: &str, matchers: &[(&str, &str)]| Selected {
        name: name.to_owned(),
        matchers: matchers.iter().map(|(a, b)| (a.to_string(), vec![b.to_string()])).collect(),
    };
    assert_eq!(
        query.metrics,
        [selected("a_bucket", &[("job", "$job"), ("route", "hit")]), selected("b", &[])]
    );
    assert_eq!(query.by, ["le", "route"].map(str::to_owned).into());
}

#[test]
fn a_query_for_what_a_service_does_not_have_is_flawed() {
    let samples = [r#"a_total{kind="busy"}"#.to_owned(), "b".to_owned()];
    let scrape = Scrape::of(&samples);
    let flaws = |query: &str| scrape.flaws(&Query::parse(query), |_, _, _| false);
    for right in [
        r#"sum by (kind) (rate(a_total{kind="busy"}[5m]))"#,
        r#"max by (instance) (b{job="x"}) or a_total"#,
    ] {
        assert_eq!(flaws(right), [""; 0], "{right}");
    }
    for (wrong, flaw) in [
        ("rate(a_totl[5m])", "no metric a_totl"),
        ("ratte(b[5m])", "no metric ratte"),
        (r#"a_total{kinds="busy"}"#, "a_total has no label kinds"),
        (r#"a_total{kind=~"busy|bus"}"#, r#"a_total has no kind="bus""#),
        ("sum by (kind) (b)", "b has no label kind, which `by` names"),
        ("1 + 1", "no metric"),
    ] {
        assert_eq!(flaws(wrong), [flaw], "{wrong}");
    }
}
