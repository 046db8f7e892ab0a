//! Repeated slashes in a path count as one: base addresses that end in a slash are usual, and whoever has one would
//! lose everything.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// Makes one of each row of slashes in the path.
pub(super) fn make_single(uri: &mut Uri) {
    if !uri.path().contains("//") {
        return;
    }
    let mut path = String::with_capacity(uri.path().len());
    for character in uri.path().chars() {
        if character != '/' || !path.ends_with('/') {
            path.push(character);
        }
    }
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    // A part of what was a path is one.
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    if let Ok(single) = Uri::from_parts(parts) {
        *uri = single;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_slashes_become_one_and_all_else_stays() {
        for (before, after) in [
            ("//api/v1/sessions", "/api/v1/sessions"),
            ("//api//v1///sessions//", "/api/v1/sessions/"),
            ("/api/v1//sessions?a=//b", "/api/v1/sessions?a=//b"),
            ("http://host:1//api//v1", "http://host:1/api/v1"),
            ("///", "/"),
            ("/api/%2F%2F/", "/api/%2F%2F/"),
            ("/api/v1", "/api/v1"),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            make_single(&mut uri);
            assert_eq!(uri.to_string(), after.parse::<Uri>().unwrap().to_string());
        }
        let mut asterisk = Uri::from_static("*");
        make_single(&mut asterisk);
        assert_eq!(asterisk, "*");
    }
}
