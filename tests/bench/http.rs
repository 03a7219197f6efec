//! A server in this process, for what `ebsfs serve` does not play.

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Answers until it is dropped.
pub(crate) struct Served {
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
    _runtime: Runtime,
}

impl Served {
    pub(crate) fn start(router: Router) -> Self {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // As `ebsfs serve` does it: an answer's last bytes do not wait for an acknowledgement of those before.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            _runtime: runtime,
        }
    }
}
