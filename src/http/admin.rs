//! The operators' door.

use axum::Router;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{App, lookup, series, with_common_routes};
use crate::rejects::Class;

/// Nothing here is reachable from the players' door but health. What was refused and what a session was hold
/// what players sent, so they are shown only where nobody but this machine can ask.
pub(super) fn router(app: App, local: bool) -> Router {
    let mut router = series::router();
    if local {
        router = router.route("/rejects", get(rejects)).merge(lookup::router());
    }
    with_common_routes(router).with_state(app)
}

/// The last refusals, the oldest first:
/// `{"invalid":[…],"unread":[…],"gone":[…],"gone_skipped":0,"dropped":0}`.
async fn rejects(State(app): State<App>) -> Response {
    let list = |class| app.rejects().last(class).join(",");
    let (invalid, unread, gone) = (list(Class::Invalid), list(Class::Unread), list(Class::Gone));
    let (skipped, dropped) = (app.rejects().gone_skipped(), app.rejects().dropped());
    let body = format!(
        "{{\"invalid\":[{invalid}],\"unread\":[{unread}],\"gone\":[{gone}],\
         \"gone_skipped\":{skipped},\"dropped\":{dropped}}}\n"
    );
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
