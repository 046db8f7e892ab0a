//! What operators look at, in `config/`: each series that the dashboard or an alert names is one that the
//! server shows, and has the labels by which it is chosen.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::certificates::Certificates;

const DASHBOARD: &str = include_str!("../../config/grafana/mediatally.json");
const ALERTS: &str = include_str!("../../config/prometheus/alerts.yml");
const ALERTS_TEST: &str = include_str!("../../config/prometheus/alerts-test.yml");

/// Series that Prometheus makes of its own accord.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

/// Labels that Prometheus gives to all that it scrapes.
const LABELS_OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

/// Words of an expression that stand where a series might.
const WORDS: [&str; 6] = ["and", "bool", "by", "or", "unless", "without"];

/// The values of each label of each series that a server shows.
type Shown = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

#[tokio::test]
async fn the_dashboard_names_series_that_the_server_shows() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&dashboard, &mut expressions);
    assert!(expressions.len() > 50, "{}", expressions.len());
    assert_shown(&expressions).await;
}

#[tokio::test]
async fn alerts_name_series_that_the_server_shows() {
    let expressions = expressions_of_rules(ALERTS);
    assert_eq!(expressions.len(), ALERTS.matches("- alert: ").count());
    assert_shown(&expressions).await;
}

#[tokio::test]
async fn alerts_are_tested_with_series_that_the_server_shows() {
    let series = ALERTS_TEST.split("{series: '").skip(1);
    // What another program shows is there to be told apart.
    let ours = |series: &String| !series.contains("job=\"another\"");
    let series: Vec<_> =
        series.map(|rest| rest.split('\'').next().unwrap().to_owned()).filter(ours).collect();
    assert!(series.len() > 50, "{}", series.len());
    assert_shown(&series).await;
}

#[test]
fn an_expression_is_taken_apart() {
    let expression = r#"sum by (job, le) (rate(a_total{x!~"1|2", y="3"}[$__rate]))
        / -(b > bool 0.8) and {__name__=~"c|d", z=~"$z"} or e"#;
    let found = selectors(expression);
    let of_a = vec![("x", "!~", "1|2"), ("y", "=", "3")];
    let expected = [
        ("a_total", of_a),
        ("b", vec![]),
        ("c", vec![("z", "=~", "$z")]),
        ("d", vec![("z", "=~", "$z")]),
        ("e", vec![]),
    ];
    assert_eq!(found, expected);
}

/// Every `expr` of the dashboard, and what its variables ask for.
fn collect_expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value.as_str() {
                    Some(text) if key == "expr" || text.starts_with("label_values(") => {
                        found.push(text.replace(
                            "label_values(mediatally_ready, instance)",
                            "mediatally_ready",
                        ));
                    }
                    _ => collect_expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_expressions(value, found)),
        _ => {}
    }
}

/// The expression of each rule: what stands between `expr:` and the member after it.
fn expressions_of_rules(rules: &str) -> Vec<String> {
    let expression = |rest: &str| {
        let ends = ["\n        for:", "\n        labels:"];
        let end =
            ends.iter().filter_map(|end| rest.find(end)).min().expect("each alert has labels");
        rest[..end].trim_start_matches(" >-").to_owned()
    };
    rules.split("        expr:").skip(1).map(expression).collect()
}

/// Holds each expression to what a running server shows.
async fn assert_shown(expressions: &[String]) {
    // Without a certificate nothing is shown of when it expires.
    let certificates = Certificates::new();
    let server = certificates.server(|_| {}).await;
    let answer = server.client.get(server.admin_url("/metrics")).send().await.unwrap();
    let shown = shown(&answer.error_for_status().unwrap().text().await.unwrap());
    let mut missing = BTreeSet::new();
    for expression in expressions {
        for (name, matchers) in selectors(expression) {
            if OF_PROMETHEUS.contains(&name) {
                continue;
            }
            let Some(labels) = shown.get(name) else {
                missing.insert(name.to_owned());
                continue;
            };
            for (label, operator, value) in matchers {
                let known = match labels.get(label) {
                    _ if LABELS_OF_PROMETHEUS.contains(&label) => true,
                    // One that some of these series have suffices where several are summed up.
                    None => operator == "!=",
                    // The bounds of buckets are written in many ways.
                    Some(_) if label == "le" => true,
                    Some(values) if operator.ends_with('~') => {
                        value.split('|').all(|value| values.contains(value))
                    }
                    Some(values) => values.contains(value),
                };
                if !known {
                    missing.insert(format!("{name}{{{label}{operator}\"{value}\"}}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "the server does not show {missing:#?}");
}

/// What the text of the series holds.
fn shown(exposition: &str) -> Shown {
    let mut shown = Shown::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        for (name, matchers) in selectors(line.rsplit_once(' ').unwrap().0) {
            let labels = shown.entry(name.to_owned()).or_default();
            for (label, _, value) in matchers {
                labels.entry(label.to_owned()).or_default().insert(value.to_owned());
            }
        }
    }
    shown
}

/// A label, how it is compared, and with what.
type Matcher<'e> = (&'e str, &'e str, &'e str);

/// The series that an expression names, each with what its labels must be.
fn selectors(expression: &str) -> Vec<(&str, Vec<Matcher<'_>>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if first == '[' {
            rest = rest.split_once(']').unwrap().1;
        } else if first == '{' {
            let (matchers, after) = matchers(rest);
            let (names, others): (Vec<_>, Vec<_>) =
                matchers.into_iter().partition(|(label, ..)| *label == "__name__");
            let names = names.iter().flat_map(|(_, _, names)| names.split('|'));
            found.extend(names.map(|name| (name, others.clone())));
            rest = after;
        } else if length == 0 {
            rest = &rest[first.len_utf8()..];
        } else {
            let (word, after) = rest.split_at(length);
            let next = after.trim_start();
            rest = after;
            if word == "by" || word == "without" {
                rest = after.split_once(')').unwrap().1;
            } else if first.is_ascii_digit()
                || WORDS.contains(&word)
                || next.starts_with('(')
                || next.starts_with("by ")
            {
                // A number, a word of the language, a function.
            } else if next.starts_with('{') {
                let (matchers, after) = matchers(next);
                found.push((word, matchers));
                rest = after;
            } else {
                found.push((word, Vec::new()));
            }
        }
    }
    found
}

/// What stands in braces, and what comes after them.
fn matchers(text: &str) -> (Vec<Matcher<'_>>, &str) {
    let mut found = Vec::new();
    let mut rest = text.strip_prefix('{').unwrap();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\n']);
        if let Some(after) = rest.strip_prefix('}') {
            return (found, after);
        }
        let (left, right) = rest.split_once('"').unwrap();
        let operator = left.find(['=', '!']).unwrap();
        let (value, after) = right.split_once('"').unwrap();
        found.push((left[..operator].trim(), left[operator..].trim(), value));
        rest = after;
    }
}
