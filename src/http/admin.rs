//! The operators' door.

use axum::Router;

use super::{App, with_common_routes};

/// Nothing here is reachable from the players' door but health.
pub(super) fn router(app: App) -> Router {
    with_common_routes(Router::new()).with_state(app)
}
