//! The key that clients outside TLS seal their passwords for, where their server is inside.

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::mysql::rsa::Key;

/// One for the process, made when the first client asks for it. Clients ask at each log-in, so a new
/// one after a restart is nothing to them.
#[derive(Debug, Clone, Default)]
pub struct SealingKey(Arc<OnceCell<Arc<Key>>>);

impl SealingKey {
    /// The key; `None` if it cannot be made.
    pub(super) async fn get(&self) -> Option<Arc<Key>> {
        let make = async || {
            let made = spawn_blocking(Key::generate).await.ok()?;
            made.ok().map(Arc::new)
        };
        self.0.get_or_try_init(async || make().await.ok_or(())).await.ok().cloned()
    }
}
