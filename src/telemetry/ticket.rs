//! A ticket for each request that brings a body: what came in is what came out.
//!
//! ```text
//! received = committed + repeated + rejected + shed + aborted + in flight        for each route
//! ```
//! A handler takes the ticket before it reads the body, and the ticket goes where the request goes: whoever
//! decides what becomes of the request settles it, once. A record that waits for its commit has it with it, so a
//! client that hangs up meanwhile changes nothing. A ticket that is let go unsettled is one of a request that
//! nobody waits for any more.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;

use super::labels::{DataRoute, Rejected, Shed};
use super::series::Each;

/// What came in and what became of it.
#[derive(Debug, Default)]
pub struct Tickets {
    /// Tickets that were taken.
    pub received: Each<DataRoute>,
    /// Those of what is in the journal, and in its session.
    pub committed: Each<DataRoute>,
    /// Those of stored sessions that were sent again; the first is in the journal.
    pub repeated: Each<DataRoute>,
    /// Those of what was refused for what it is.
    pub rejected: Each<(DataRoute, Rejected)>,
    /// Those of what was refused for lack of room.
    pub shed: Each<(DataRoute, Shed)>,
    /// Those of what nobody waited for, or what met a defect of ours.
    pub aborted: Each<DataRoute>,
    /// Those that are not settled yet.
    pub in_flight: Each<DataRoute, Gauge>,
}

impl Tickets {
    /// Takes a ticket for a request that has just come.
    pub fn take(self: &Arc<Self>, route: DataRoute) -> Ticket {
        self.received.of(route).inc();
        self.in_flight.of(route).inc();
        Ticket(Some((Arc::clone(self), route)))
    }

    fn settle(&self, route: DataRoute, fate: Fate) {
        match fate {
            Fate::Committed => self.committed.of(route).inc(),
            Fate::Repeated => self.repeated.of(route).inc(),
            Fate::Rejected(reason) => self.rejected.of((route, reason)).inc(),
            Fate::Shed(reason) => self.shed.of((route, reason)).inc(),
            Fate::Aborted => self.aborted.of(route).inc(),
        };
        self.in_flight.of(route).dec();
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is durable, and its session has it.
    Committed,
    /// It was sent before, and that is durable.
    Repeated,
    /// It was refused for what it is.
    Rejected(Rejected),
    /// There was no room for it.
    Shed(Shed),
    /// Nothing became of it.
    Aborted,
}

/// The ticket of a request, or none: what the server writes of its own accord has none.
#[derive(Debug, Default)]
pub struct Ticket(Option<(Arc<Tickets>, DataRoute)>);

impl Ticket {
    /// Takes the ticket over; what stays behind is none.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Settles the ticket, if it is not elsewhere or settled already.
    pub fn settle(&mut self, fate: Fate) {
        if let Some((tickets, route)) = self.0.take() {
            tickets.settle(route, fate);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle(Fate::Aborted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: DataRoute = DataRoute::Events;

    /// How many were received, committed, rejected as gone, shed as busy, aborted, and are in flight.
    fn shown(tickets: &Tickets) -> [u64; 6] {
        [
            tickets.received.of(ROUTE).get(),
            tickets.committed.of(ROUTE).get(),
            tickets.rejected.of((ROUTE, Rejected::Gone)).get(),
            tickets.shed.of((ROUTE, Shed::Busy)).get(),
            tickets.aborted.of(ROUTE).get(),
            tickets.in_flight.of(ROUTE).get().try_into().unwrap(),
        ]
    }

    #[test]
    fn a_ticket_is_settled_once() {
        let tickets = Arc::new(Tickets::default());
        let mut ticket = tickets.take(ROUTE);
        assert_eq!(shown(&tickets), [1, 0, 0, 0, 0, 1]);
        ticket.settle(Fate::Committed);
        ticket.settle(Fate::Shed(Shed::Busy));
        drop(ticket);
        assert_eq!(shown(&tickets), [1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_ticket_that_was_taken_over_is_settled_by_who_has_it() {
        let tickets = Arc::new(Tickets::default());
        let mut ticket = tickets.take(ROUTE);
        let mut elsewhere = ticket.take();
        ticket.settle(Fate::Shed(Shed::Busy));
        drop(ticket);
        assert_eq!(shown(&tickets), [1, 0, 0, 0, 0, 1]);
        elsewhere.settle(Fate::Rejected(Rejected::Gone));
        assert_eq!(shown(&tickets), [1, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn a_ticket_that_is_let_go_is_one_of_an_aborted_request() {
        let tickets = Arc::new(Tickets::default());
        drop(tickets.take(ROUTE));
        assert_eq!(shown(&tickets), [1, 0, 0, 0, 1, 0]);
        drop(Ticket::default());
        assert_eq!(shown(&tickets), [1, 0, 0, 0, 1, 0], "none is none");
    }
}
