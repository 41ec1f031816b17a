//! The sections of a definition: steps that run after the instance's own steps have ended.

use super::StepAddress;

/// Steps that run after the instance's own steps have ended, in the order of the variants. The
/// addresses of the steps begin with the name of the section: `on_error.notify`. The end of a section
/// is recorded as an attempt with the section's name as its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The compensations of completed steps, after a failure or a cancellation.
    Compensate,
    /// `on_error`: after a failure.
    OnError,
    /// `finally`: always.
    Finally,
}

impl Section {
    /// Every section, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Compensate, Self::OnError, Self::Finally];

    /// Returns the name in definitions and addresses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compensate => "compensate",
            Self::OnError => "on_error",
            Self::Finally => "finally",
        }
    }

    /// Returns the address of the section as a whole.
    pub fn address(self) -> StepAddress {
        StepAddress::of_section(self.as_str())
    }

    /// Returns the prefix of the addresses in the section.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Compensate => "compensate.",
            Self::OnError => "on_error.",
            Self::Finally => "finally.",
        }
    }
}
