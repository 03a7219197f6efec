//! What is kept of a snapshot, for who only wants to know: nothing is made, mended, noted or locked for it.

use std::ops::Range;
use std::path::Path;

use super::digests::Digests;
use super::files::{Identity, identity_in};
use super::private::Mode;
use crate::error::Result;
use crate::snapshot::SnapshotInfo;

/// Tells `each` which blocks of the snapshot `info` of the store with that identity are kept in the directory `top`, in
/// ascending runs.
///
/// Others go on adding and taking away meanwhile. Whether a block is as it was written shows only when it is loaded.
pub fn glance(
    top: &Path,
    store: &str,
    info: &SnapshotInfo,
    mut each: impl FnMut(Range<u32>),
) -> Result<()> {
    let identity = Identity {
        store: store.to_owned(),
        info: info.clone(),
    };
    let key = identity.key();
    let dir = top.join(key.to_string());
    if !identity_in(&dir).is_some_and(|kept| kept.is_same(&identity)) {
        return Ok(());
    }
    let Some(digests) = Digests::open(&dir, &key, Mode::Existing)? else {
        return Ok(());
    };
    let mut open: Option<Range<u32>> = None;
    for run in digests.written(info.volume_size.blocks())? {
        digests.ages(run.start, run.end, |index, used| {
            let index = index.get();
            match &mut open {
                Some(run) if used > 0 && run.end == index => run.end += 1,
                open if used > 0 => {
                    if let Some(done) = open.replace(index..index + 1) {
                        each(done);
                    }
                }
                _ => {}
            }
        })?;
    }
    open.map(each);
    Ok(())
}
