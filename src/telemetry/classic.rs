//! `OpenMetrics` text → Prometheus' own text format, version 0.0.4, for scrapers that read nothing else.
//!
//! ```text
//! # HELP requests All of them.          # HELP requests_total All of them.
//! # TYPE requests counter         →     # TYPE requests_total counter
//! requests_total 3                      requests_total 3
//! # TYPE build info                     # TYPE build_info gauge
//! # UNIT size_bytes bytes               (left out)
//! # EOF                                 (left out)
//! ```

use std::fmt::Write;

/// The same series in the format 0.0.4.
pub fn of_openmetrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            // Which name it is for shows with its type, which follows.
            (Some("#"), Some("HELP"), Some(name), said) => {
                help = Some((name, said.unwrap_or_default()));
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (end, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    "stateset" => ("", "gauge"),
                    "gaugehistogram" => ("", "histogram"),
                    kind => ("", kind),
                };
                if let Some((_, said)) = help.take().filter(|(named, _)| *named == name) {
                    // A quote is not escaped there.
                    let said = said.replace("\\\"", "\"");
                    let _ = writeln!(classic, "# HELP {name}{end} {said}");
                }
                let _ = writeln!(classic, "# TYPE {name}{end} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                classic += without_exemplar(line);
                classic.push('\n');
            }
        }
    }
    classic
}

/// A sample without the example that may stand behind it; values of labels stand in quotes.
fn without_exemplar(line: &str) -> &str {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (index, byte) in line.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'#' if !is_quoted => return line[..index].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_told_by_the_name_of_its_samples() {
        let openmetrics = "\
# HELP a_seconds How \\\"long\\\".
# TYPE a_seconds histogram
# UNIT a_seconds seconds
a_seconds_sum 1.5
a_seconds_count 1
a_seconds_bucket{le=\"+Inf\"} 1 # {id=\"x # y\"} 0.5
# HELP b All.
# TYPE b counter
b_total{path=\"/a # \\\"b\\\"\"} 3
# TYPE c info
c_info{version=\"1\"} 1
# HELP d What.
# TYPE d gauge
d 1
# TYPE e unknown
e 1
# EOF
";
        let expected = "\
# HELP a_seconds How \"long\".
# TYPE a_seconds histogram
a_seconds_sum 1.5
a_seconds_count 1
a_seconds_bucket{le=\"+Inf\"} 1
# HELP b_total All.
# TYPE b_total counter
b_total{path=\"/a # \\\"b\\\"\"} 3
# TYPE c_info gauge
c_info{version=\"1\"} 1
# HELP d What.
# TYPE d gauge
d 1
# TYPE e untyped
e 1
";
        assert_eq!(of_openmetrics(openmetrics), expected);
        assert_eq!(of_openmetrics(""), "");
    }
}
