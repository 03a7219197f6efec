//! A store over the wire, in one process: the client, a socket, the server, and the store that it serves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use ebsfs::server::{Access, Faults, Limits, Service, Stop, serve};
use ebsfs::snapshot::SnapshotInfo;
use ebsfs::source::{BlockSource, IndexCache, SnapshotSource};
use ebsfs::stats::Remote;
use ebsfs::store::Store;
use ebsfs::store::ebs::{Config, EbsStore};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A server on a runtime of its own, which ends with it.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Wire {
    /// Serves `store`, with these faults.
    pub(crate) fn serve(store: Arc<dyn Store>, faults: Faults) -> Self {
        Self::serve_at(store, faults, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The same where another server has been, say.
    pub(crate) fn serve_at(store: Arc<dyn Store>, faults: Faults, at: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let served = Arc::clone(&store);
        let windows = Arc::new(IndexCache::new(1 << 20));
        let opener = Box::new(move |info: &SnapshotInfo| -> Arc<dyn BlockSource> {
            Arc::new(SnapshotSource::new(
                Arc::clone(&served),
                info,
                Arc::clone(&windows),
            ))
        });
        let service = Service::new(store, opener, Access::Anyone, faults, Limits::default());
        let listener = runtime.block_on(TcpListener::bind(at)).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(Arc::new(service.unwrap()), listener, Stop::default()));
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// A client of it, and what happens to that.
    pub(crate) async fn client(&self, config: Config) -> (Arc<EbsStore>, Arc<Remote>) {
        client(&self.url(), config).await
    }

    /// Ends the server; its address is free then. Not to be called by a task.
    pub(crate) fn end(mut self) {
        let runtime = self.runtime.take().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(5));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Also by a task, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A client of whatever is at `url`.
pub(crate) async fn client(url: &str, config: Config) -> (Arc<EbsStore>, Arc<Remote>) {
    let remote = Arc::new(Remote::default());
    let store = EbsStore::with(&aws(url), config, Arc::clone(&remote)).await;
    (Arc::new(store.unwrap()), remote)
}

/// What an AWS configuration would say of `url`.
pub(crate) fn aws(url: &str) -> SdkConfig {
    let credentials = Credentials::new("any", "any", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(url)
        .build()
}
