//! Byte budgets over all calls: limits on single streams do not add up to a limit on the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::status::ApiError;

/// How long a call waits for its share before it is told that the server is overloaded.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a share is counted in, so that any budget fits a semaphore.
const UNIT: usize = 1024;

/// So many bytes, shared by whoever asks. First come, first served.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    units: Arc<Semaphore>,
    total: usize,
}

/// A share of a budget; goes back when dropped.
#[derive(Debug)]
pub struct BudgetShare(OwnedSemaphorePermit);

impl BudgetShare {
    /// Gives back what is not needed, where it turned out to be so few bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(bytes.div_ceil(UNIT).max(1));
        drop(self.0.split(surplus));
    }
}

impl ByteBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let total = bytes.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(total)), total }
    }

    /// Waits for a share of so many bytes. More than the whole budget counts as all of it.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] where it takes too long.
    pub async fn share(&self, bytes: usize) -> Result<BudgetShare, ApiError> {
        let units = bytes.div_ceil(UNIT).clamp(1, self.total).try_into().unwrap_or(u32::MAX);
        match tokio::time::timeout(PATIENCE, Arc::clone(&self.units).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(BudgetShare(permit)),
            Ok(Err(_)) | Err(_) => Err(ApiError::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_gives_back_what_it_does_not_need() {
        let budget = ByteBudget::new(10 * UNIT);
        let mut share = budget.share(8 * UNIT).await.unwrap();
        for (bytes, left) in [(100 * UNIT, 2), (8 * UNIT, 2), (2 * UNIT + 1, 7), (1, 9), (0, 9)] {
            share.shrink(bytes);
            assert_eq!(budget.units.available_permits(), left, "{bytes}");
        }
        drop(share);
        assert_eq!(budget.units.available_permits(), 10);
    }
}
