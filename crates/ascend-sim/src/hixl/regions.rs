//! Registered regions: a sorted array, so that a look-up is a binary search.

use super::status::{Outcome, PARAM_INVALID};

/// Something with a place in an address space.
pub(crate) trait Span {
    /// First address.
    fn start(&self) -> u64;
    /// Bytes.
    fn length(&self) -> u64;
}

/// Regions by address, none overlapping.
#[derive(Clone, Debug)]
pub(crate) struct Regions<R> {
    sorted: Vec<R>,
}

impl<R> Default for Regions<R> {
    fn default() -> Self {
        Self { sorted: Vec::new() }
    }
}

/// What stands in the way of a new region.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Clash<'a, R> {
    /// The same range is there already.
    Same(&'a R),
    /// Another range shares bytes, or the start.
    Overlap,
}

impl<R: Span> Regions<R> {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// All, by address.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, R> {
        self.sorted.iter()
    }

    /// Whether a range can be added.
    pub(crate) fn clash(&self, start: u64, length: u64) -> Option<Clash<'_, R>> {
        let end = start.saturating_add(length);
        let shares = |one: &R| {
            let (from, to) = (one.start(), one.start().saturating_add(one.length()));
            from == start || (from < end && start < to)
        };
        let from = self.sorted.partition_point(|one| one.start() < start).saturating_sub(1);
        let near = self.sorted[from..].iter().take_while(|one| one.start() <= end);
        let other = near.into_iter().find(|one| shares(one))?;
        let same = other.start() == start && other.length() == length;
        Some(if same { Clash::Same(other) } else { Clash::Overlap })
    }

    /// Adds a region that does not clash.
    pub(crate) fn add(&mut self, region: R) -> Outcome {
        if self.clash(region.start(), region.length()).is_some() {
            return Err(PARAM_INVALID);
        }
        let at = self.sorted.partition_point(|one| one.start() < region.start());
        self.sorted.insert(at, region);
        Ok(())
    }

    /// Takes out the first that fits.
    pub(crate) fn remove(&mut self, fits: impl Fn(&R) -> bool) -> Option<R> {
        let at = self.sorted.iter().position(fits)?;
        Some(self.sorted.remove(at))
    }

    /// The region that holds a whole range.
    pub(crate) fn find(&self, start: u64, length: u64) -> Option<&R> {
        let at = self.sorted.partition_point(|one| one.start() <= start).checked_sub(1)?;
        let region = &self.sorted[at];
        let inside = start - region.start();
        (inside <= region.length() && length <= region.length() - inside).then_some(region)
    }
}

impl<R: Span> FromIterator<R> for Regions<R> {
    fn from_iter<I: IntoIterator<Item = R>>(regions: I) -> Self {
        let mut sorted: Vec<R> = regions.into_iter().collect();
        sorted.sort_by_key(Span::start);
        Self { sorted }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clash, Regions, Span};

    impl Span for (u64, u64) {
        fn start(&self) -> u64 {
            self.0
        }

        fn length(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn a_clash_is_told_whatever_side_it_comes_from() {
        let mut regions = Regions::default();
        for region in [(100, 50), (300, 100), (200, 100)] {
            regions.add(region).unwrap();
        }
        assert_eq!(regions.clash(200, 100), Some(Clash::Same(&(200, 100))));
        for (start, length) in [(200, 99), (199, 2), (90, 20), (149, 1), (120, 5), (50, 500), (399, 9)] {
            assert_eq!(regions.clash(start, length), Some(Clash::Overlap), "{start} {length}");
        }
        assert_eq!(regions.clash(150, 50), None);
        assert_eq!(regions.clash(400, 50), None);
    }

    #[test]
    fn only_a_range_wholly_inside_one_region_is_found() {
        let regions: Regions<(u64, u64)> = [(300, 100), (100, 50), (200, 100)].into_iter().collect();
        assert_eq!(regions.find(210, 90), Some(&(200, 100)));
        assert_eq!(regions.find(100, 50), Some(&(100, 50)));
        for (start, length) in [(99, 1), (149, 2), (150, 1), (290, 20), (u64::MAX, 1), (300, u64::MAX)] {
            assert_eq!(regions.find(start, length), None, "{start} {length}");
        }
    }
}
