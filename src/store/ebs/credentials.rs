//! Credentials, asked for once and shared by all requests until they are about to expire.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

/// Renewed this long before they expire, as other AWS tools do.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// A provider that asks another one, and remembers.
#[derive(Clone, Debug)]
pub(super) struct KeptCredentials {
    provider: SharedCredentialsProvider,
    /// Held while they are asked for, so that all who need them wait for one answer.
    kept: Arc<Mutex<Option<Credentials>>>,
}

impl KeptCredentials {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self {
            provider,
            kept: Arc::default(),
        }
    }

    pub(super) async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let mut kept = self.kept.lock().await;
        let lasts = |credentials: &Credentials, margin| {
            credentials
                .expiry()
                .is_none_or(|expiry| SystemTime::now() + margin < expiry)
        };
        if let Some(credentials) = kept.as_ref().filter(|kept| lasts(kept, MARGIN)) {
            return Ok(credentials.clone());
        }
        match self.provider.provide_credentials().await {
            Ok(credentials) => Ok(kept.insert(credentials).clone()),
            // A provider that fails for a while fails nobody as long as the old ones hold.
            Err(e) => kept
                .clone()
                .filter(|kept| lasts(kept, Duration::ZERO))
                .ok_or(e),
        }
    }
}

impl ProvideCredentials for KeptCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives credentials of the lives named, one after another, then fails.
    #[derive(Debug)]
    struct Provider {
        lives: Vec<u64>,
        asked: Arc<AtomicUsize>,
    }

    impl ProvideCredentials for Provider {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let asked = self.asked.fetch_add(1, Ordering::SeqCst);
            let life = self.lives.get(asked);
            let given = life.map(|life| {
                let expiry = SystemTime::now() + Duration::from_secs(*life);
                Credentials::new("key", "secret", None, Some(expiry), "test")
            });
            future::ProvideCredentials::ready(
                given.ok_or_else(|| CredentialsError::not_loaded("no more")),
            )
        }
    }

    #[test]
    fn they_are_asked_for_again_only_shortly_before_they_expire() {
        let asked = Arc::new(AtomicUsize::new(0));
        let provider = Provider {
            lives: vec![200, 3600],
            asked: Arc::clone(&asked),
        };
        let kept = KeptCredentials::new(SharedCredentialsProvider::new(provider));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for expected in [1, 2, 2] {
            runtime.block_on(kept.credentials()).unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), expected);
        }
    }

    #[test]
    fn a_provider_that_fails_leaves_those_that_still_hold() {
        let asked = Arc::new(AtomicUsize::new(0));
        let lives = vec![200];
        let kept = KeptCredentials::new(SharedCredentialsProvider::new(Provider { lives, asked }));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(kept.credentials()).unwrap();
        runtime.block_on(kept.credentials()).unwrap();
    }
}
