//! One behavioural suite for every implementation of `Store`, written against the trait alone.
//!
//! A behaviour is a named `async fn(&World)`; each file lists its own in `behaviours!`, which makes a test of it
//! in every world. To add a world, add a constructor here and a line to the macro.

use std::sync::Arc;

use ebsfs::server::Faults;
use ebsfs::snapshot::SnapshotInfo;
use ebsfs::store::Store;
use ebsfs::store::directory::DirectoryStore;
use ebsfs::store::ebs::Config;
use ebsfs::store::memory::MemoryStore;

use crate::common::{Turnable, block_on, scratch};
use crate::wire::Wire;

/// An empty store, the clock that it reads, and what must outlive it.
pub(crate) struct World {
    store: Arc<dyn Store>,
    pub(crate) time: Turnable,
    /// Whether the store tells which parent a snapshot had; EC2 does not.
    tells_parents: bool,
    _keep: Box<dyn Send + Sync>,
}

impl World {
    fn memory() -> Self {
        let time = Turnable::new();
        Self {
            store: Arc::new(MemoryStore::with_clock(time.clock()).unwrap()),
            time,
            tells_parents: true,
            _keep: Box::new(()),
        }
    }

    fn directory() -> Self {
        let (dir, time) = (scratch(), Turnable::new());
        let store = DirectoryStore::create_with_clock(&dir.path().join("store"), time.clock());
        Self {
            store: Arc::new(store.unwrap()),
            time,
            tells_parents: true,
            _keep: Box::new(dir),
        }
    }

    fn wire_to_memory() -> Self {
        Self::memory().over_the_wire()
    }

    fn wire_to_directory() -> Self {
        Self::directory().over_the_wire()
    }

    /// The same store, through a client and a server.
    fn over_the_wire(self) -> Self {
        let wire = Wire::serve(self.shared(), Faults::default());
        let (client, _) = block_on(wire.client(Config::default()));
        Self {
            store: client,
            time: self.time,
            tells_parents: false,
            _keep: Box::new((wire, self._keep)),
        }
    }

    /// `info` as `info` and `list` tell it.
    pub(crate) fn told(&self, info: &SnapshotInfo) -> SnapshotInfo {
        let mut told = info.clone();
        if !self.tells_parents {
            told.parent = None;
        }
        told
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The store for a task of its own.
    pub(crate) fn shared(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}

fn run(world: World, behaviour: impl AsyncFnOnce(&World)) {
    block_on(behaviour(&world));
}

/// Makes a test of each behaviour named, in each world.
macro_rules! behaviours {
    (in $world:ident: $($name:ident)*) => {
        mod $world {
            $(
                #[test]
                fn $name() {
                    crate::conformance::run(crate::conformance::World::$world(), super::$name);
                }
            )*
        }
    };
    ($($name:ident,)*) => {
        behaviours!(in memory: $($name)*);
        behaviours!(in directory: $($name)*);
        behaviours!(in wire_to_memory: $($name)*);
        behaviours!(in wire_to_directory: $($name)*);
    };
}

mod changes;
mod children;
mod concurrency;
mod lifecycle;
mod paging;
mod starting;
mod timeout;
