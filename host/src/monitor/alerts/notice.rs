//! Rules for when a message about an alert is due.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::model::AlertState;

/// A message about an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// The alert fires.
    Fired,
    /// The alert still fires, and no user acknowledged it.
    StillFiring,
    /// The alert is resolved.
    Resolved,
}

/// The content of the last message about an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeState {
    /// No message was sent.
    #[default]
    Nothing,
    /// The last message said that the alert fires.
    Firing,
    /// The last message said that the alert is resolved.
    Resolved,
}

impl NoticeState {
    /// Returns the state as the database stores it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

impl FromStr for NoticeState {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Nothing, Self::Firing, Self::Resolved]
            .into_iter()
            .find(|told| told.as_str() == text)
            .ok_or("is neither nothing, firing nor resolved")
    }
}

/// The last message about an alert and its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastNotice {
    /// The content of the message.
    pub state: NoticeState,
    /// The time of the message; none if no message was sent.
    pub at: Option<Timestamp>,
}

/// Reasons to hold a message back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suppression {
    /// A user acknowledged the alert.
    pub acknowledged: bool,
    /// A silence covers the alert now.
    pub silenced: bool,
}

/// Returns the message that is due now. A `repeat_every` of zero repeats no message. "Resolved" is
/// due only if "firing" was sent. A silenced alert has no message due; once the silence ends, the
/// rules apply to the state of then.
pub fn due_notice(
    state: AlertState,
    told: LastNotice,
    suppression: Suppression,
    repeat_every: Duration,
    now: Timestamp,
) -> Option<Notice> {
    if suppression.silenced {
        return None;
    }
    match (state, told.state) {
        (AlertState::Firing, NoticeState::Nothing) if !suppression.acknowledged => {
            Some(Notice::Fired)
        }
        (AlertState::Firing, NoticeState::Firing)
            if !suppression.acknowledged && !repeat_every.is_zero() =>
        {
            let due = told.at.is_none_or(|at| now.since(at) >= repeat_every);
            due.then_some(Notice::StillFiring)
        }
        (AlertState::Resolved, NoticeState::Firing) => Some(Notice::Resolved),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_micros(minute * 60_000_000)
    }

    fn told(state: NoticeState) -> LastNotice {
        LastNotice {
            state,
            at: Some(at(0)),
        }
    }

    #[test]
    fn firing_is_told_once_and_then_again_after_a_while() {
        let due_notice = |told, minute| {
            due_notice(
                AlertState::Firing,
                told,
                Suppression::default(),
                HOUR,
                at(minute),
            )
        };
        assert_eq!(due_notice(LastNotice::default(), 0), Some(Notice::Fired));
        assert_eq!(due_notice(told(NoticeState::Firing), 59), None);
        assert_eq!(
            due_notice(told(NoticeState::Firing), 60),
            Some(Notice::StillFiring)
        );
        assert_eq!(
            due_notice(told(NoticeState::Firing), -1_000),
            None,
            "a clock that was set back"
        );
        let never = super::due_notice(
            AlertState::Firing,
            told(NoticeState::Firing),
            Suppression::default(),
            Duration::ZERO,
            at(9_999),
        );
        assert_eq!(never, None);
    }

    #[test]
    fn the_end_is_told_to_those_who_heard_of_the_beginning() {
        let due_notice = |state| {
            due_notice(
                AlertState::Resolved,
                told(state),
                Suppression::default(),
                HOUR,
                at(0),
            )
        };
        assert_eq!(due_notice(NoticeState::Firing), Some(Notice::Resolved));
        assert_eq!(
            (
                due_notice(NoticeState::Nothing),
                due_notice(NoticeState::Resolved)
            ),
            (None, None)
        );
    }

    proptest! {
        #[test]
        fn silence_tells_nothing_and_an_acknowledged_alert_does_not_repeat(
            state in prop::sample::select(AlertState::ALL),
            last in prop::sample::select(vec![NoticeState::Nothing, NoticeState::Firing, NoticeState::Resolved]),
            acknowledged: bool,
            silenced: bool,
            minute in -10_000..10_000_i64,
        ) {
            let notice = due_notice(state, told(last), Suppression { acknowledged, silenced }, HOUR, at(minute));
            prop_assert!(!(silenced && notice.is_some()));
            prop_assert!(!(acknowledged && matches!(notice, Some(Notice::Fired | Notice::StillFiring))));
            prop_assert!(!(state == AlertState::Pending && notice.is_some()));
        }
    }
}
