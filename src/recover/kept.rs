//! What of a file's attributes is kept, wherever it goes, and times as the kernel counts them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A capability lets a file act for root.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

const SETUID_SETGID: u32 = 0o6000;

/// The mode without what lets a file act for somebody else, unless that is kept.
pub(super) fn mode(mode: u32, privileged: bool) -> u32 {
    match privileged {
        true => mode & 0o7777,
        false => mode & 0o7777 & !SETUID_SETGID,
    }
}

/// Whether an extended attribute is kept. Labels of security modules are of the machine that they were made on.
pub(super) fn is_kept(name: &[u8], privileged: bool, root: bool) -> bool {
    match name {
        CAPABILITY => privileged,
        b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        name if name.starts_with(b"user.") => true,
        name => root && name.starts_with(b"trusted."),
    }
}

/// Whole seconds since 1970, downwards, and nanoseconds since those.
pub(super) fn seconds(time: SystemTime) -> (i64, u32) {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (whole(since), since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let down = whole(before).saturating_neg();
            match before.subsec_nanos() {
                0 => (down, 0),
                nanos => (
                    down.saturating_sub(1),
                    1_000_000_000_u32.saturating_sub(nanos),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_counted_as_the_kernel_does() {
        assert_eq!(seconds(UNIX_EPOCH + Duration::new(5, 7)), (5, 7));
        assert_eq!(seconds(UNIX_EPOCH - Duration::new(5, 0)), (-5, 0));
        assert_eq!(seconds(UNIX_EPOCH - Duration::new(5, 7)), (-6, 999_999_993));
    }

    #[test]
    fn what_acts_for_others_is_kept_only_when_wished_for() {
        assert_eq!(mode(0o107_755, false), 0o1755);
        assert_eq!(mode(0o106_755, true), 0o6755);
        for name in [&b"user.a"[..], b"system.posix_acl_access"] {
            assert!(is_kept(name, false, false));
        }
        assert!(!is_kept(CAPABILITY, false, true));
        assert!(is_kept(CAPABILITY, true, true));
        assert!(!is_kept(b"trusted.overlay.opaque", false, false));
        assert!(!is_kept(b"security.selinux", true, true));
    }
}
