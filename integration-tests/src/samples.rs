//! Statistics of repeated measurements: median, range, and whether one build is slower than
//! another.

/// Rounds of both sides before one is called worse than the other.
pub const ROUNDS_TO_JUDGE: usize = 9;

/// What a difference of medians has to exceed to count.
const MARGIN: f64 = 0.05;

/// How one build compares with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Significantly worse.
    Worse,
    /// Significantly better.
    Better,
    /// No significant difference.
    Same,
    /// Not enough rounds to say.
    TooFew,
}

/// A difference counts when the medians differ by more than 5 % and the ranges do not overlap: a
/// machine that others share moves medians by more than that alone.
#[must_use]
pub fn change(ratio: f64, ours: &[f64], theirs: &[f64], more_is_better: bool) -> Change {
    if ours.len().min(theirs.len()) < ROUNDS_TO_JUDGE {
        return Change::TooFew;
    }
    let ((our_least, our_most), (their_least, their_most)) = (range(ours), range(theirs));
    let higher = ratio > 1.0 + MARGIN && our_least > their_most;
    let lower = ratio < 1.0 - MARGIN && our_most < their_least;
    match (higher, lower) {
        (false, false) => Change::Same,
        (true, _) if more_is_better => Change::Better,
        (_, true) if !more_is_better => Change::Better,
        _ => Change::Worse,
    }
}

/// The least and the most of them.
#[must_use]
pub fn range(samples: &[f64]) -> (f64, f64) {
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

/// The middle one; of an even number the mean of both.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[must_use]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_two_samples() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_build_is_worse_when_medians_differ_and_ranges_do_not_overlap() {
        let around = |middle: f64| -> Vec<f64> {
            (0..ROUNDS_TO_JUDGE)
                .map(|round| middle * (0.98 + 0.005 * round as f64))
                .collect()
        };
        let wide: Vec<f64> = (0..ROUNDS_TO_JUDGE)
            .map(|round| 90.0 + 10.0 * round as f64)
            .collect();
        let table = [
            ("the same", around(100.0), false, Change::Same),
            ("3 % more", around(103.0), false, Change::Same),
            (
                "more of what should be little",
                around(110.0),
                false,
                Change::Worse,
            ),
            (
                "more of what should be much",
                around(110.0),
                true,
                Change::Better,
            ),
            (
                "less of what should be little",
                around(90.0),
                false,
                Change::Better,
            ),
            (
                "less of what should be much",
                around(90.0),
                true,
                Change::Worse,
            ),
            ("more, but it overlaps", wide, false, Change::Same),
            ("one round", vec![200.0], false, Change::TooFew),
        ];
        for (what, ours, more_is_better, expected) in table {
            let theirs = around(100.0);
            let ratio = median(&ours).unwrap() / median(&theirs).unwrap();
            assert_eq!(
                change(ratio, &ours, &theirs, more_is_better),
                expected,
                "{what}"
            );
        }
    }
}
