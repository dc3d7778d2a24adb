//! A circuit breaker: after failures in a row nobody waits for the next one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts failures in a row.
#[derive(Debug)]
pub(crate) struct Breaker {
    most: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// While it lies ahead nothing is tried.
    until: Option<Instant>,
}

impl Breaker {
    /// Opens for `pause` after `most` failures in a row; never where `most` is 0.
    pub(crate) fn new(most: u32, pause: Duration) -> Self {
        Self { most, pause, state: Mutex::default() }
    }

    /// Lets something be tried, and says whether it is the one that finds out for all.
    ///
    /// # Errors
    /// How long nothing should be. After that, one caller a pause is let through.
    pub(crate) fn ask(&self) -> Result<bool, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match state.until {
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                state.until = Some(now + self.pause);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// As if the pause were over.
    #[cfg(test)]
    pub(super) fn pause_is_over(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.until = state.until.map(|_| Instant::now());
    }

    /// What was tried went well.
    pub(crate) fn went_well(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// What was tried failed.
    pub(crate) fn failed(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        if self.most > 0 && state.failures >= self.most {
            state.until = Some(Instant::now() + self.pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_through() {
        let breaker = Breaker::new(2, Duration::from_secs(3600));
        breaker.failed();
        breaker.went_well();
        breaker.failed();
        assert_eq!(breaker.ask(), Ok(false));
        breaker.failed();
        assert!(breaker.ask().is_err());
        breaker.pause_is_over();
        assert_eq!(breaker.ask(), Ok(true), "the pause is over");
        assert!(breaker.ask().is_err(), "for one");
        breaker.went_well();
        assert_eq!(breaker.ask(), Ok(false));
    }

    #[test]
    fn none_never_opens() {
        let breaker = Breaker::new(0, Duration::from_secs(3600));
        (0..100).for_each(|_| breaker.failed());
        assert_eq!(breaker.ask(), Ok(false));
    }
}
