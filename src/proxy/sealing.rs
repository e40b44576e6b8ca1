//! The key that clients outside TLS seal their passwords for, where their server is inside.

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::failure::Failure;
use crate::mysql::rsa::Key;
use crate::relay::Side;

/// One for the process, made when the first client asks for it. Clients ask at each log-in or on each
/// connection, so a new one after a restart is nothing to them.
#[derive(Debug, Clone, Default)]
pub struct SealingKey(Arc<OnceCell<Arc<Key>>>);

impl SealingKey {
    pub(super) async fn get(&self) -> Result<Arc<Key>, Failure> {
        let make = async || {
            let made = spawn_blocking(Key::generate).await.ok().and_then(Result::ok);
            made.map(Arc::new).ok_or_else(|| {
                Failure::tls(Side::Tidegate, "no key can be made for the client's password")
            })
        };
        self.0.get_or_try_init(make).await.cloned()
    }
}
