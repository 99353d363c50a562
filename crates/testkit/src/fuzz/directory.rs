//! A directory and what a peer knows of it, with changes and answers that are late, lost or repeated.

use ropeway_core::machine::directory::Change;
use ropeway_core::wire::message::CacheInfo;
use ropeway_core::{CacheId, CacheLayout, Directory, Limits, RegionId, RemoteDirectory, Strided};

use super::Input;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

pub(super) fn directory(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = Limits::default().with_caches(3);
    let (mut ours, mut theirs) = (Directory::new(&limits), RemoteDirectory::new(&limits));
    let (mut changes, mut answers): (Vec<Change>, Vec<(&str, CacheInfo)>) = (Vec::new(), Vec::new());
    let mut ids: Vec<CacheId> = Vec::new();
    while !input.is_done() {
        let name = NAMES[usize::from(input.below(4))];
        match input.below(6) {
            0 | 1 => {
                if let Ok((id, said)) = ours.publish(&layout(name, &mut input)) {
                    assert!(!ids.contains(&id), "an id came twice");
                    ids.push(id);
                    changes.extend(said);
                }
            }
            2 => {
                let id = ids.get(usize::from(input.byte()) % ids.len().max(1)).copied();
                changes.extend(id.and_then(|id| ours.withdraw(id)));
            }
            3 => answers.extend(ours.lookup(name, theirs.known(name)).ok().map(|info| (name, info))),
            4 if !answers.is_empty() => {
                let (name, info) = answers.remove(usize::from(input.byte()) % answers.len());
                let _ = theirs.found(name, info);
            }
            // Changes keep their order within a session; here even that is not relied upon.
            _ if !changes.is_empty() => {
                let change = &changes[usize::from(input.byte()) % changes.len()];
                let _ = theirs.changed(change);
            }
            _ => {}
        }
        assert!(ours.len() <= 3);
    }
    // Whatever was late: when all changes were heard, nothing of the past counts as current.
    changes.iter().for_each(|change| {
        theirs.changed(change);
    });
    for name in NAMES {
        if let Some(current) = theirs.current(name) {
            assert_eq!(ours.lookup(name, None).map(|info| info.cache), Ok(current.cache));
        }
        let Ok(info) = ours.lookup(name, theirs.known(name)) else { continue };
        let cache = info.cache;
        if let Ok(whole) = theirs.found(name, info) {
            assert!(!whole.layout.is_empty());
            assert_eq!(theirs.current(name).map(|known| known.cache), Some(cache));
        }
    }
}

fn layout(name: &str, input: &mut Input<'_>) -> CacheLayout {
    let region = RegionId { slot: 0, generation: 1 };
    let blocks = 1 + u32::from(input.below(8));
    let layout = CacheLayout::builder(name).group("g", 1).part("k", region, Strided::dense(0, 8, blocks));
    layout.build(|_| Some(64), &Limits::default()).expect("the layout fits its region")
}
