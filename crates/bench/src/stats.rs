//! Medians, quartiles, and ratios of pairs that were measured one right after the other.

use serde::Serialize;

/// The quarters of a sample.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Quartiles {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Quartiles {
    /// Of a sample that is not empty; values between two samples are interpolated.
    pub(crate) fn of(sample: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = sample.into_iter().collect();
        assert!(!sorted.is_empty(), "an empty sample has no median");
        sorted.sort_unstable_by(f64::total_cmp);
        Self { low: at(&sorted, 0.25), median: at(&sorted, 0.5), high: at(&sorted, 0.75) }
    }
}

/// The value below which `share` of a sorted sample lies.
fn at(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, rest) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * rest
}

/// What one repetition took.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Rep {
    /// Wall seconds.
    pub(crate) seconds: f64,
    /// CPU seconds of the side that copies.
    pub(crate) cpu_initiator: f64,
    /// CPU seconds of the other side; 0 where both are one process.
    pub(crate) cpu_target: f64,
}

impl Rep {
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu_initiator + self.cpu_target
    }

    pub(crate) fn gbps(&self, bytes: u64) -> f64 {
        gb(bytes) / self.seconds
    }

    pub(crate) fn gb_per_cpu_s(&self, bytes: u64) -> f64 {
        gb(bytes) / self.cpu().max(1e-9)
    }
}

/// Decimal gigabytes.
pub(crate) fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Repetitions of the engine and of the reference, taken in turns: `engine[i]` belongs to `reference[i]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    pub(crate) engine: Vec<Rep>,
    pub(crate) reference: Vec<Rep>,
}

impl Pairs {
    /// Engine's bytes per second over the reference's: neighbours on the machine disturb both halves of a pair alike.
    pub(crate) fn share_of_limit(&self) -> Option<Quartiles> {
        self.ratio(|engine, reference| reference.seconds / engine.seconds)
    }

    /// Engine's bytes per CPU second over the reference's.
    pub(crate) fn share_of_cpu(&self) -> Option<Quartiles> {
        self.ratio(|engine, reference| reference.cpu() / engine.cpu().max(1e-9))
    }

    fn ratio(&self, of: impl Fn(&Rep, &Rep) -> f64) -> Option<Quartiles> {
        let pairs = self.engine.iter().zip(&self.reference);
        (pairs.len() > 0).then(|| Quartiles::of(pairs.map(|(engine, reference)| of(engine, reference))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quartiles_of_known_samples() {
        assert_eq!(Quartiles::of([3.0, 1.0, 2.0]), Quartiles { low: 1.5, median: 2.0, high: 2.5 });
        assert_eq!(Quartiles::of([4.0]), Quartiles { low: 4.0, median: 4.0, high: 4.0 });
        assert_eq!(Quartiles::of([1.0, 2.0, 3.0, 4.0]).median, 2.5);
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        let rep = |seconds| Rep { seconds, cpu_initiator: seconds, cpu_target: 0.0 };
        // The machine was ten times slower in the second round: for both.
        let pairs = Pairs {
            engine: vec![rep(1.0), rep(10.0), rep(2.0)],
            reference: vec![rep(0.9), rep(9.0), rep(1.8)],
        };
        assert!((pairs.share_of_limit().unwrap().median - 0.9).abs() < 1e-9);
        assert!((pairs.share_of_cpu().unwrap().median - 0.9).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn half_of_a_sample_lies_on_each_side_of_its_median(
            sample in proptest::collection::vec(-1e6f64..1e6, 1..200)
        ) {
            let q = Quartiles::of(sample.iter().copied());
            prop_assert!(q.low <= q.median && q.median <= q.high);
            let half = sample.len() / 2;
            prop_assert!(sample.iter().filter(|&&x| x <= q.median).count() >= half);
            prop_assert!(sample.iter().filter(|&&x| x >= q.median).count() >= half);
        }
    }
}
