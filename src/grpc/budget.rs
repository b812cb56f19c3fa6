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
pub struct BudgetShare(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

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
