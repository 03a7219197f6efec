//! Numbers of things, as people say them.

/// `1 block`, `2 blocks`: for words whose plural has an s more.
pub(super) fn counted(count: u64, one: &str) -> String {
    counted_as(count, one, &format!("{one}s"))
}

/// Likewise for all others.
pub(super) fn counted_as(count: u64, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(
            [0, 1, 2].map(|n| counted(n, "block")),
            ["0 blocks", "1 block", "2 blocks"]
        );
        assert_eq!(counted_as(1, "directory", "directories"), "1 directory");
        assert_eq!(counted_as(7, "directory", "directories"), "7 directories");
    }
}
