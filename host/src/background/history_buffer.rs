//! Points of the history in memory: points whose time is not over, and points that the database has
//! not stored yet.
//!
//! Every interval is added at once to a point of 10 seconds, one of a minute and one of an hour.
//! While the database is away for long, the fine points are dropped first, because the coarse
//! points contain the same numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Timestamp;
use crate::monitor::Interval;
use crate::store::{HistoryPoint, HistoryStep, Series, SeriesCounts, SeriesKind};

/// A step of the history with the time when it begins.
pub(super) type StepStart = (HistoryStep, Timestamp);

/// Points in memory, by step.
#[derive(Debug, Default)]
pub(super) struct HistoryBuffer {
    steps: BTreeMap<StepStart, Points>,
    /// The latest step of each length. A later step cannot have been written before.
    latest: BTreeMap<HistoryStep, Timestamp>,
}

#[derive(Debug, Default)]
struct Points {
    points: BTreeMap<Series, BufferedPoint>,
    /// True if this host may have written points of this step before. The stored points have to be
    /// read first.
    unread: bool,
}

#[derive(Debug)]
struct BufferedPoint {
    counted: SeriesCounts,
    /// True if the database does not have this value yet.
    changed: bool,
}

/// Returns the series of an interval with their values. Gauges are not included.
pub(super) fn counted(interval: Interval) -> impl Iterator<Item = (Series, SeriesCounts)> {
    let calls = interval.operations.into_iter().map(|operation| {
        let series = Series {
            team: operation.team,
            kind: SeriesKind::Operation,
            name: operation.name,
        };
        (series, SeriesCounts::Calls(operation.timings))
    });
    let events = interval.counters.into_iter().map(|counter| {
        let series = Series {
            team: counter.team,
            kind: SeriesKind::Counter,
            name: counter.name.into_owned(),
        };
        (series, SeriesCounts::Events(counter.delta))
    });
    calls.chain(events)
}

impl HistoryBuffer {
    /// Adds values to the points of a time.
    pub(super) fn count(
        &mut self,
        at: Timestamp,
        counted: impl IntoIterator<Item = (Series, SeriesCounts)>,
    ) {
        for step in HistoryStep::ALL {
            let begin = step.begin(at);
            let latest = self.latest.get(&step).copied();
            // The stored points are unknown after a restart, and after the clock was set back.
            let unread = latest.is_none_or(|latest| begin < latest)
                && !self.steps.contains_key(&(step, begin));
            if unread {
                self.steps.entry((step, begin)).or_default().unread = true;
            }
            self.latest
                .insert(step, latest.map_or(begin, |latest| latest.max(begin)));
        }
        for (series, counted) in counted {
            for step in HistoryStep::ALL {
                let points = &mut self.steps.entry((step, step.begin(at))).or_default().points;
                match points.get_mut(&series) {
                    Some(point) => {
                        point.counted.merge(&counted);
                        point.changed = true;
                    }
                    None => {
                        points.insert(
                            series.clone(),
                            BufferedPoint {
                                counted: counted.clone(),
                                changed: true,
                            },
                        );
                    }
                }
            }
        }
    }

    /// Returns the steps whose stored points have to be read.
    pub(super) fn unread(&self) -> Vec<StepStart> {
        self.steps
            .iter()
            .filter(|(_, points)| points.unread)
            .map(|(place, _)| *place)
            .collect()
    }

    /// Adds the stored points of an unread step.
    pub(super) fn read(&mut self, place: StepStart, written: Vec<HistoryPoint>) {
        let Some(points) = self.steps.get_mut(&place).filter(|points| points.unread) else {
            return;
        };
        points.unread = false;
        for HistoryPoint {
            series, counted, ..
        } in written
        {
            match points.points.get_mut(&series) {
                Some(point) => point.counted.merge(&counted),
                None => {
                    points.points.insert(
                        series,
                        BufferedPoint {
                            counted,
                            changed: false,
                        },
                    );
                }
            }
        }
    }

    /// Returns all points to write, the finest first. Points of unread steps are left out, because
    /// they would replace the stored ones.
    pub(super) fn changed(&self) -> Vec<HistoryPoint> {
        let mut changed = Vec::new();
        for ((step, at), points) in self.steps.iter().filter(|(_, points)| !points.unread) {
            for (series, point) in points.points.iter().filter(|(_, point)| point.changed) {
                let (series, counted) = (series.clone(), point.counted.clone());
                changed.push(HistoryPoint {
                    series,
                    step: *step,
                    at: *at,
                    counted,
                });
            }
        }
        changed
    }

    /// Marks the first `count` points that [`HistoryBuffer::changed`] returned as written.
    pub(super) fn settle(&mut self, count: usize) {
        let steps = self.steps.values_mut().filter(|points| !points.unread);
        let changed = steps
            .flat_map(|points| points.points.values_mut())
            .filter(|point| point.changed);
        changed.take(count).for_each(|point| point.changed = false);
    }

    /// Drops steps that are over and written. Beyond `points_max` points it also drops unwritten
    /// steps, the finest and oldest first. Returns the number of unwritten points that were
    /// dropped.
    pub(super) fn forget(&mut self, now: Timestamp, points_max: usize) -> usize {
        let open: BTreeSet<StepStart> = HistoryStep::ALL
            .into_iter()
            .map(|step| (step, step.begin(now)))
            .collect();
        self.steps.retain(|place, points| {
            open.contains(place)
                || points.unread
                || points.points.values().any(|point| point.changed)
        });
        let mut all: usize = self.steps.values().map(|points| points.points.len()).sum();
        let mut given_up = 0;
        while all > points_max {
            let Some((_, points)) = self.steps.pop_first() else {
                break;
            };
            all -= points.points.len();
            given_up += points.points.values().filter(|point| point.changed).count();
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn series(name: &str) -> Series {
        Series {
            team: None,
            kind: SeriesKind::Counter,
            name: name.to_owned(),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().after(Duration::from_secs(seconds))
    }

    fn one(name: &str, events: u64) -> [(Series, SeriesCounts); 1] {
        [(series(name), SeriesCounts::Events(events))]
    }

    fn read_all(buffer: &mut HistoryBuffer) {
        buffer
            .unread()
            .into_iter()
            .for_each(|place| buffer.read(place, Vec::new()));
    }

    fn events(points: &[HistoryPoint]) -> Vec<(u64, Timestamp, u64)> {
        let events = |point: &HistoryPoint| match point.counted {
            SeriesCounts::Events(events) => (point.step.seconds(), point.at, events),
            _ => panic!("only events were counted"),
        };
        points.iter().map(events).collect()
    }

    #[test]
    fn coarse_points_grow_with_fine_ones_and_are_written_whole() {
        let mut buffer = HistoryBuffer::default();
        buffer.count(at(3_600), one("a", 1));
        read_all(&mut buffer);
        assert_eq!(
            events(&buffer.changed()),
            [
                (10, at(3_600), 1),
                (60, at(3_600), 1),
                (3_600, at(3_600), 1)
            ]
        );
        buffer.settle(3);
        assert_eq!(buffer.changed(), []);
        buffer.count(at(3_611), one("a", 2));
        let changed = events(&buffer.changed());
        assert_eq!(
            changed,
            [
                (10, at(3_610), 2),
                (60, at(3_600), 3),
                (3_600, at(3_600), 3)
            ]
        );
        // The database took a part of the points; the rest stays changed.
        buffer.settle(1);
        assert_eq!(events(&buffer.changed()), changed[1..]);
        buffer.settle(2);
        assert_eq!(buffer.forget(at(3_670), usize::MAX), 0);
        assert_eq!(buffer.steps.len(), 1, "the hour is not over");
    }

    #[test]
    fn what_a_process_before_wrote_is_added_and_not_replaced() {
        let mut buffer = HistoryBuffer::default();
        buffer.count(at(3_600), one("a", 1));
        assert_eq!(
            buffer.changed(),
            [],
            "nothing is written before it was read"
        );
        let places = buffer.unread();
        assert_eq!(places.len(), 3);
        for place in places {
            let written = |name, events| HistoryPoint {
                series: series(name),
                step: place.0,
                at: place.1,
                counted: SeriesCounts::Events(events),
            };
            buffer.read(place, vec![written("a", 7), written("b", 9)]);
            // A second result of the same read changes nothing.
            buffer.read(place, vec![written("a", 7)]);
        }
        assert_eq!(
            events(&buffer.changed())
                .iter()
                .map(|point| point.2)
                .collect::<Vec<_>>(),
            [8, 8, 8]
        );
        buffer.count(at(3_610), one("b", 1));
        assert_eq!(buffer.unread(), [], "what begins later was never written");
        buffer.count(at(3_500), one("b", 1));
        assert_eq!(buffer.unread().len(), 3, "the clock was set back");
    }

    #[test]
    fn when_nothing_can_be_written_the_fine_points_give_way_and_the_coarse_ones_keep_the_sum() {
        let mut buffer = HistoryBuffer::default();
        for tick in 0..100 {
            buffer.count(at(tick * 10), one("a", 1));
            read_all(&mut buffer);
            buffer.forget(at(tick * 10), 20);
        }
        let changed = events(&buffer.changed());
        assert_eq!(changed.len(), 20);
        assert_eq!(changed.last(), Some(&(3_600, at(0), 100)));
        let minutes: u64 = changed
            .iter()
            .filter(|point| point.0 == 60)
            .map(|point| point.2)
            .sum();
        assert_eq!(minutes, 100);
        assert_eq!(changed.first(), Some(&(10, at(980), 1)), "{changed:?}");
    }
}
