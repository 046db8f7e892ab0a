//! Waiting for an order that was given to the server which uses the data folder.
//!
//! The server tells in the [`Word`] on it how far it is, about once a second. One that says nothing may have
//! ended, or be of a version that does not know orders: whoever waits is told when to see to that, and when to
//! wait no longer.

use std::io;
use std::time::Duration;

use super::order::{State, Word};
use crate::journal::disk::Disk;

/// How often it is to be looked how far the server is.
pub const LOOK: Duration = Duration::from_millis(200);

/// After how many looks without a word it is to be seen whether the server still runs.
const LOOKS_TILL_ASKING: u32 = 50;

/// After how many looks without a word nobody waits any longer.
const LOOKS_MAX: u32 = 300;

/// The same once there was one: the server may be saving millions of sessions in between.
const LOOKS_MAX_ONCE_HEARD: u32 = 10 * LOOKS_MAX;

/// How it stands with an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The server has said nothing yet.
    Given,
    /// The server has said this.
    Told(State),
    /// The server has said nothing new for so long that it may have ended; then the order is anybody's to finish.
    Quiet,
    /// It has said nothing new for longer than anybody should wait.
    Silent,
}

/// Waits for an order.
pub struct Wait<'w> {
    home: &'w dyn Disk,
    order: &'w str,
    /// When the last word on it was written, in ms since the Unix epoch.
    heard_ms: Option<u64>,
    /// How many looks brought no other one.
    silent: u32,
}

impl std::fmt::Debug for Wait<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wait").field("order", &self.order).finish_non_exhaustive()
    }
}

impl<'w> Wait<'w> {
    /// Waits for the order of this id, given in this data folder just now.
    pub fn new(home: &'w dyn Disk, order: &'w str) -> Self {
        Self { home, order, heard_ms: None, silent: 0 }
    }

    /// Looks how it stands. To be called every [`LOOK`].
    ///
    /// # Errors
    /// What the system says.
    pub fn look(&mut self) -> io::Result<Standing> {
        let word = Word::to_whoever_waits(self.home, self.order)?;
        let written_ms = word.as_ref().map(|word| word.written_ms);
        self.silent = if written_ms == self.heard_ms { self.silent + 1 } else { 0 };
        self.heard_ms = written_ms;
        let looks_max = if word.is_some() { LOOKS_MAX_ONCE_HEARD } else { LOOKS_MAX };
        let state = word.map(|word| word.state);
        Ok(match state {
            Some(last @ (State::Done(_) | State::Failing { .. })) => Standing::Told(last),
            _ if self.silent > looks_max => Standing::Silent,
            _ if self.silent > 0 && self.silent.is_multiple_of(LOOKS_TILL_ASKING) => {
                Standing::Quiet
            }
            state => state.map_or(Standing::Given, Standing::Told),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::sim::SimDisk;

    fn say(home: &dyn Disk, written_ms: u64, state: State) {
        Word { order: "one".into(), written_ms, state }.save(home).unwrap();
    }

    /// Looks until something else is told, and says after how many looks that was.
    fn looks_until_other(wait: &mut Wait<'_>, same: &Standing) -> (u32, Standing) {
        let mut looks = 1;
        loop {
            let standing = wait.look().unwrap();
            if standing != *same {
                return (looks, standing);
            }
            looks += 1;
        }
    }

    #[test]
    fn a_server_that_says_nothing_new_is_looked_after_and_in_the_end_given_up() {
        let home = SimDisk::default();
        let mut wait = Wait::new(&home, "one");
        for _ in 0..6 {
            assert_eq!(looks_until_other(&mut wait, &Standing::Given), (50, Standing::Quiet));
        }
        assert_eq!(wait.look().unwrap(), Standing::Silent, "it has never said one");
        let mut wait = Wait::new(&home, "one");
        say(&home, 1_000, State::Running { done_bytes: 1, total_bytes: 2 });
        let running = Standing::Told(State::Running { done_bytes: 1, total_bytes: 2 });
        assert_eq!(wait.look().unwrap(), running);
        for _ in 0..60 {
            assert_eq!(looks_until_other(&mut wait, &running), (50, Standing::Quiet));
        }
        assert_eq!(wait.look().unwrap(), Standing::Silent);
        say(&home, 2_000, State::Running { done_bytes: 1, total_bytes: 2 });
        assert_eq!(wait.look().unwrap(), running, "it has spoken again");
    }

    #[test]
    fn the_last_word_is_told_and_stands_until_it_is_forgotten() {
        let home = SimDisk::default();
        let mut wait = Wait::new(&home, "one");
        let failing = State::Failing { why: "no room".into() };
        say(&home, 1_000, failing.clone());
        assert_eq!(wait.look().unwrap(), Standing::Told(failing));
        let done = State::Done(Box::default());
        say(&home, 2_000, done.clone());
        assert_eq!(wait.look().unwrap(), Standing::Told(done));
        assert_eq!(home.list().unwrap().len(), 1);
        Word::forget(&home, "one").unwrap();
        assert_eq!(home.list().unwrap(), []);
    }
}
