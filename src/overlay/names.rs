//! What the files of an overlay are called.
//!
//! ```text
//! overlay          the header, see `header`
//! lock             who has it, see `directory`
//! layer-3.journal  the states of layer 3's pages, see `journal`
//! layer-3.data-0   layer 3's written pages of the first TiB, each at its offset on the disk; sparse
//! layer-3.data-1   of the second TiB, each at its offset less 1 TiB, and so on
//! puts             what an unfinished commit has uploaded; the commit's, not this module's
//! ```

/// The header.
pub(super) const HEADER: &str = "overlay";

/// The journal of layer `layer`.
pub(super) fn journal(layer: u32) -> String {
    format!("layer-{layer}.journal")
}

/// Data file `file` of layer `layer`.
pub(super) fn data(layer: u32, file: u64) -> String {
    format!("layer-{layer}.data-{file}")
}

/// The layer that the file `name` belongs to; none for other files.
pub(super) fn layer_of(name: &str) -> Option<u32> {
    let (layer, _) = name.strip_prefix("layer-")?.split_once('.')?;
    layer.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_files_are_known_by_name() {
        assert_eq!(layer_of(&journal(7)), Some(7));
        assert_eq!(layer_of(&data(12, 63)), Some(12));
        for other in [HEADER, "lock", "puts", "layer-x.journal", "layer-7"] {
            assert_eq!(layer_of(other), None, "{other}");
        }
    }
}
