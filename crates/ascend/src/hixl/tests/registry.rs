use std::cell::{Cell, RefCell};
use std::sync::Arc;

use proptest::prelude::*;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::{Janitor, Memory};

use super::super::registry::*;

/// A library that keeps HIXL's rules and breaks when they are broken.
#[derive(Default)]
struct Library {
    regions: RefCell<Vec<(usize, Span)>>,
    next: Cell<usize>,
    links: Cell<u32>,
}

impl Registers for Library {
    fn register(&self, span: Span) -> Result<usize> {
        let mut regions = self.regions.borrow_mut();
        assert!(span.len > 0 && span.address > 0, "HIXL takes it, and every later connect fails");
        let clash = |(_, other): &(usize, Span)| {
            other.address < span.address + span.len && span.address < other.address + other.len
        };
        assert!(!regions.iter().any(clash), "103900");
        self.next.set(self.next.get() + 1);
        regions.push((self.next.get(), span));
        Ok(self.next.get())
    }

    fn deregister(&self, handle: usize) -> Result<()> {
        if self.links.get() > 0 {
            return Err(Error::new(ErrorKind::LinkLost, "deregister", "503900"));
        }
        let mut regions = self.regions.borrow_mut();
        let at = regions.iter().position(|(known, _)| *known == handle).expect("a handle is used once");
        regions.swap_remove(at);
        Ok(())
    }

    fn can_deregister(&self) -> bool {
        self.links.get() == 0
    }
}

fn span(address: u64, len: u64) -> Span {
    Span { address, len, kind: Kind::Device }
}

fn memory() -> Arc<Memory> {
    let janitor = Janitor::start().unwrap();
    Memory::owner(vec![0u8; 8], &janitor).unwrap()
}

#[test]
fn pieces_of_one_allocation_are_one_registration() {
    let (library, memory) = (Library::default(), memory());
    let mut registry = Registry::new(1);
    let whole = Some(span(0x1000, 0x10000));
    let keys: Vec<_> = (0..16)
        .map(|at| registry.add(span(0x1000 + at * 0x1000, 0x1000), whole, &memory, &library).unwrap())
        .collect();
    assert_eq!(library.regions.borrow().len(), 1);
    for key in keys {
        assert_eq!(registry.len(), 1);
        registry.remove(key, &library).unwrap();
    }
    assert!(library.regions.borrow().is_empty());
}

#[test]
fn what_overlaps_without_being_covered_is_refused_in_words() {
    let (library, memory) = (Library::default(), memory());
    let mut registry = Registry::new(16);
    registry.add(span(0x2000, 0x1000), None, &memory, &library).unwrap();
    for wrong in [span(0x1800, 0x1000), span(0x2800, 0x1000), span(0x1000, 0x4000), span(0x2000, 0x2000)] {
        let error = registry.add(wrong, None, &memory, &library).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse);
        assert!(error.message().contains("overlap"), "{error}");
    }
    let host = Span { kind: Kind::Host, ..span(0x2000, 0x1000) };
    assert!(registry.add(host, None, &memory, &library).is_err());
    // Its neighbours, and a piece of it, are fine; an allocation that overlaps is not registered as a whole.
    registry.add(span(0x1000, 0x1000), Some(span(0x1000, 0x2000)), &memory, &library).unwrap();
    registry.add(span(0x3000, 0x1000), None, &memory, &library).unwrap();
    registry.add(span(0x2400, 0x10), None, &memory, &library).unwrap();
    assert_eq!(registry.len(), 3);
}

#[test]
fn no_bytes_no_address_and_a_wrap_are_refused_before_the_library_sees_them() {
    let (library, memory) = (Library::default(), memory());
    let mut registry = Registry::new(16);
    for wrong in [span(0x1000, 0), span(0, 0x1000), span(u64::MAX - 1, 16)] {
        assert_eq!(registry.add(wrong, None, &memory, &library).unwrap_err().kind(), ErrorKind::ApiMisuse);
    }
}

#[test]
fn the_limit_is_a_refusal_that_names_it_and_ends_with_room() {
    let (library, memory) = (Library::default(), memory());
    let mut registry = Registry::new(2);
    let first = registry.add(span(0x1000, 16), None, &memory, &library).unwrap();
    registry.add(span(0x2000, 16), None, &memory, &library).unwrap();
    let error = registry.add(span(0x3000, 16), None, &memory, &library).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.message().contains("2 regions"), "{error}");
    registry.remove(first, &library).unwrap();
    registry.add(span(0x3000, 16), None, &memory, &library).unwrap();
}

#[test]
fn memory_is_kept_until_the_last_link_is_down() {
    let (library, memory) = (Library::default(), memory());
    let mut registry = Registry::new(2);
    let key = registry.add(span(0x1000, 16), None, &memory, &library).unwrap();
    library.links.set(1);
    registry.remove(key, &library).unwrap();
    assert_eq!(Arc::strong_count(&memory), 2, "the library still has it");
    registry.sweep(&library);
    assert_eq!(Arc::strong_count(&memory), 2);
    // Registered again meanwhile, it is the same registration.
    let key = registry.add(span(0x1000, 16), None, &memory, &library).unwrap();
    assert_eq!(library.regions.borrow().len(), 1);
    registry.remove(key, &library).unwrap();
    library.links.set(0);
    registry.sweep(&library);
    assert_eq!((registry.len(), Arc::strong_count(&memory)), (0, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Add(u64, u64, bool),
    Remove(prop::sample::Index),
    Links(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..40, 0u64..12, any::<bool>()).prop_map(|(at, len, whole)| Step::Add(at * 16, len * 16, whole)),
        any::<prop::sample::Index>().prop_map(Step::Remove),
        (0u32..2).prop_map(Step::Links),
    ]
}

proptest! {
    /// The library's assertions are the property: it never sees what it cannot bear, and in the end has nothing.
    #[test]
    fn the_library_never_sees_what_it_cannot_bear(steps in prop::collection::vec(step(), 0..60)) {
        let (library, memory) = (Library::default(), memory());
        let mut registry = Registry::new(8);
        let mut live: Vec<(Key, Span)> = Vec::new();
        for step in steps {
            match step {
                Step::Add(at, len, whole) => {
                    let wanted = span(at, len);
                    let whole = whole.then(|| span(at / 128 * 128 + 1, 256));
                    if let Ok(key) = registry.add(wanted, whole, &memory, &library) {
                        live.push((key, wanted));
                    }
                }
                Step::Remove(_) if live.is_empty() => {}
                Step::Remove(at) => {
                    let (key, _) = live.swap_remove(at.index(live.len()));
                    registry.remove(key, &library).unwrap();
                }
                Step::Links(links) => library.links.set(links),
            }
            let regions = library.regions.borrow();
            for (_, wanted) in &live {
                let inside = |(_, span): &(usize, Span)| {
                    span.address <= wanted.address && wanted.address + wanted.len <= span.address + span.len
                };
                prop_assert!(regions.iter().any(inside), "{wanted:?} is not registered");
            }
            prop_assert!(regions.len() <= 8);
        }
        library.links.set(0);
        for (key, _) in live {
            registry.remove(key, &library).unwrap();
        }
        registry.sweep(&library);
        prop_assert!(library.regions.borrow().is_empty());
        prop_assert_eq!(Arc::strong_count(&memory), 1);
    }
}
