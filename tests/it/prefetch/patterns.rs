//! Streams that are recognised.

use super::simulated::{FAR, Line, World};

/// Reads `indexes`, of which all but a few at the beginning are to be there, or on their way, when they are asked for,
/// and returns the world after that.
fn foreseen(indexes: &[u32], unforeseen: usize) -> World {
    let mut world = World::dense(8, FAR);
    let alone = FAR.latency + FAR.each;
    let mut cold = 0;
    for index in indexes {
        let before = world.now;
        world.read(*index);
        if world.now - before >= alone {
            cold += 1;
        }
    }
    assert!(
        cold <= unforeseen,
        "{cold} reads waited for a whole round trip"
    );
    world
}

#[test]
fn upwards() {
    let world = foreseen(&(100..2100).collect::<Vec<_>>(), 3);
    assert!(world.unread() <= 256);
}

#[test]
fn downwards() {
    let world = foreseen(&(100..2100).rev().collect::<Vec<_>>(), 3);
    assert!(
        world.unread() <= 100,
        "nothing lies below: {}",
        world.unread()
    );
}

#[test]
fn downwards_in_pieces() {
    for piece in [2, 3, 8] {
        let pieces = (0..20).rev().flat_map(|at| at * piece..(at + 1) * piece);
        foreseen(&pieces.map(|at| at + 1000).collect::<Vec<_>>(), 30);
    }
}

#[test]
fn strides() {
    for (by, len) in [
        (2, 1),
        (3, 2),
        (7, 1),
        (16, 3),
        (100, 1),
        (100, 20),
        (1000, 2),
    ] {
        let starts = (0..(16_000 / by).min(60)).map(|at| at * by);
        let up: Vec<_> = starts.clone().flat_map(|at| at..at + len).collect();
        let world = foreseen(&up, 4 * len as usize);
        let (read, unread) = (up.len(), world.unread());
        assert!(
            unread <= 320.min(16 + read),
            "{by} {len}: {unread} beside {read}"
        );
        let down: Vec<_> = starts.rev().flat_map(|at| at..at + len).collect();
        foreseen(&down, 4 * len as usize);
    }
}

/// The kernel asks for several blocks at one time, and not in order.
#[test]
fn upwards_with_neighbours_exchanged() {
    let pairs: Vec<_> = (0..500).flat_map(|pair| [2 * pair + 1, 2 * pair]).collect();
    foreseen(&pairs, 10);
    let fours: Vec<_> = (0..300)
        .flat_map(|four| [2, 0, 3, 1].map(|at| 4 * four + at))
        .collect();
    foreseen(&fours, 10);
}

#[test]
fn sixteen_at_one_time() {
    let starts: Vec<u32> = (0..16).map(|stream| 1000 * stream + 37).collect();
    let turns: Vec<_> = (0..200)
        .flat_map(|turn| {
            let next = |(at, start): (usize, &u32)| match at % 3 {
                0 => start + turn,
                1 => start + 500 - turn,
                _ => start + 3 * turn,
            };
            starts.iter().enumerate().map(next).collect::<Vec<_>>()
        })
        .collect();
    let world = foreseen(&turns, 16 * 16);
    assert!(world.unread() <= 256);
}

/// A loop device reads a few KiB at a time: the same block over and over, and metadata between.
#[test]
fn a_stream_that_looks_elsewhere_now_and_then() {
    let with_metadata: Vec<_> = (0..1000)
        .flat_map(|at| match at % 10 {
            0 => vec![5000 + at, 7, 5000 + at],
            _ => vec![5000 + at, 5000 + at],
        })
        .collect();
    foreseen(&with_metadata, 5);
}

#[test]
fn absent_blocks_are_passed_over() {
    // Three present, and thirteen absent.
    let present: Vec<u32> = (0..16_384).filter(|at| at % 16 < 3).collect();
    let set = present
        .iter()
        .map(|at| ebsfs::block::BlockIndex::new(*at))
        .collect();
    let mut world = World::new(8, set, FAR);
    // By one who knows the holes, and by one who reads them.
    let taken = world.read_all(present[..1500].iter().copied());
    assert!(taken < 20 * FAR.latency, "{taken:?}");
    let read = world.fetched.len();
    world.read_all(8_000..16_384);
    assert!(world.fetched.len() > read && world.unread() == 0);
}

#[test]
fn what_is_not_listed_is_asked_for_and_nothing_beyond() {
    let line = Line { ..FAR };
    let mut world = World::dense(8, line);
    world.listed_to(64);
    let asked: Vec<_> = (0..64).filter_map(|at| world.read(at)).collect();
    assert!(!asked.is_empty() && asked.iter().all(|at| at.get() == 64));
    assert_eq!(world.fetched.len(), 64);
}

#[test]
fn a_run_that_ends_gives_up_what_it_will_not_read() {
    let mut world = World::dense(8, FAR);
    world.read_all(0..200);
    assert!(world.policy.outstanding() > 100);
    // Others read on, far away from each other.
    let mut random = fastrand::Rng::with_seed(7);
    world.read_all((0..600).map(|_| random.u32(1000..16_000)));
    assert!(
        world.policy.outstanding() < 20,
        "{}",
        world.policy.outstanding()
    );
}
