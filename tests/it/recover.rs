//! Files out of a tree: faithful, whatever the tree and whatever happens at the destination.

mod archive;
mod faithful;
mod hostile;
mod limits;
mod paper;
pub(crate) mod portrait;
mod resumed;
