//! Addresses of steps in an instance.
//!
//! A step of the definition's own list has its id as its address. A step inside another one, such as
//! a `for_each`, may run many times; its address begins with the address of that step and names the
//! block: `charge[3].pay` for the item 3 of `charge`, `quotes.ups.ask` for the branch `ups` of
//! `quotes`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::StepId;

/// Longest address, in bytes. The bound of nesting makes longer ones impossible.
pub const ADDRESS_BYTES_MAX: usize = 640;

/// The address of a step in an instance. Attempts, approvals and log lines carry it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepAddress(Arc<str>);

/// The block of a step that runs other steps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockKey {
    /// The steps for an item of a `for_each`, a round of a `loop` or a case of a `switch`. The first
    /// is 0.
    Index(usize),
    /// A branch of a `parallel`.
    Branch(StepId),
}

/// The error for a text that is no address.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is not the address of a step: use ids joined by '.', with an index such as charge[3].pay for steps of a list"
)]
pub struct AddressError(String);

impl StepAddress {
    /// Returns the address of the step `id` in the block with this prefix. The prefix of the
    /// definition's own list is empty.
    pub fn in_block(prefix: &str, id: &StepId) -> Self {
        Self(format!("{prefix}{id}").into())
    }

    /// Returns the address of a section as a whole.
    pub(crate) fn of_section(name: &'static str) -> Self {
        Self(name.into())
    }

    /// Returns this address behind a prefix.
    pub(crate) fn behind(&self, prefix: &str) -> Self {
        Self(format!("{prefix}{self}").into())
    }

    /// Returns the address without a prefix; none if it does not begin so.
    pub(crate) fn without(&self, prefix: &str) -> Option<Self> {
        Some(Self(self.0.strip_prefix(prefix)?.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the prefix of all addresses in the step's block; empty for the definition's own list.
    pub fn block(&self) -> &str {
        let end = self.0.rfind('.').map_or(0, |point| point + 1);
        self.0.get(..end).unwrap_or_default()
    }

    /// Returns the step's id in the definition.
    pub fn id(&self) -> &str {
        self.0.get(self.block().len()..).unwrap_or_default()
    }

    /// Returns the prefix of the addresses in a block of this step.
    pub fn prefix(&self, key: &BlockKey) -> Arc<str> {
        match key {
            BlockKey::Index(index) => format!("{self}[{index}]."),
            BlockKey::Branch(branch) => format!("{self}.{branch}."),
        }
        .into()
    }

    /// Returns the steps that this one stands in, the outermost first, each with the key of the
    /// block. None if the address has an index too large for this machine.
    pub fn groups(&self) -> Option<Vec<(Self, BlockKey)>> {
        let mut groups = Vec::new();
        let mut start = 0;
        while let Some(end) = self.0.get(start..)?.find(['.', '[']) {
            let end = start + end;
            let (group, behind) = (self.0.get(..end)?, self.0.get(end..)?);
            let (key, rest) = block_key(behind)?;
            groups.push((Self(group.into()), key));
            start = self.0.len() - rest.len();
        }
        Some(groups)
    }

    /// Returns true if the step is in a block of `group`, or in a block within such a block.
    pub fn is_within(&self, group: &Self) -> bool {
        self.0
            .strip_prefix(group.as_str())
            .is_some_and(|rest| rest.starts_with(['.', '[']))
    }
}

/// Splits the text behind the id of a group into the key of the block and the rest of the address.
fn block_key(text: &str) -> Option<(BlockKey, &str)> {
    if let Some(text) = text.strip_prefix('[') {
        let (index, rest) = text.split_once("].")?;
        return Some((BlockKey::Index(index.parse().ok()?), rest));
    }
    let (branch, rest) = text.strip_prefix('.')?.split_once('.')?;
    Some((BlockKey::Branch(branch.parse().ok()?), rest))
}

impl From<&StepId> for StepAddress {
    fn from(id: &StepId) -> Self {
        Self(id.as_str().into())
    }
}

impl std::str::FromStr for StepAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let mut names = text.split('.');
        // The step itself has no index.
        let is_address = text.len() <= ADDRESS_BYTES_MAX
            && names
                .next_back()
                .is_some_and(|last| last.parse::<StepId>().is_ok())
            && names.all(|name| {
                let (name, index) = match name.strip_suffix(']').map(|name| name.split_once('[')) {
                    Some(Some((name, index))) => (name, Some(index)),
                    _ => (name, None),
                };
                let is_index = |index: &str| {
                    let is_short = (1..=9).contains(&index.len());
                    is_short && index.bytes().all(|digit| digit.is_ascii_digit())
                };
                name.parse::<StepId>().is_ok() && index.is_none_or(is_index)
            });
        if is_address {
            return Ok(Self(text.into()));
        }
        let shown = text.chars().take(80).flat_map(char::escape_debug);
        Err(AddressError(shown.collect()))
    }
}

impl fmt::Debug for StepAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StepAddress({self})")
    }
}

impl fmt::Display for StepAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for StepAddress {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for StepAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StepAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> StepAddress {
        text.parse().expect("is an address")
    }

    #[test]
    fn an_address_has_a_block_and_an_id() {
        for (text, block, id) in [
            ("a", "", "a"),
            ("charge[3].pay", "charge[3].", "pay"),
            ("quotes.ups.ask", "quotes.ups.", "ask"),
            ("a[0].b.c.d[12].e", "a[0].b.c.d[12].", "e"),
        ] {
            let address = address(text);
            assert_eq!((address.block(), address.id()), (block, id), "{text}");
            let id: StepId = id.parse().expect("is an id");
            assert_eq!(StepAddress::in_block(block, &id), address);
        }
        let pay = address("charge");
        assert_eq!(&*pay.prefix(&BlockKey::Index(3)), "charge[3].");
        let branch = BlockKey::Branch("ups".parse().expect("is an id"));
        assert_eq!(&*address("quotes").prefix(&branch), "quotes.ups.");
    }

    #[test]
    fn an_address_names_the_steps_around_it() {
        let groups = address("a[2].b.c.d").groups().expect("are groups");
        let branch = BlockKey::Branch("c".parse().expect("is an id"));
        let expected = [
            (address("a"), BlockKey::Index(2)),
            (address("a[2].b"), branch),
        ];
        assert_eq!(groups, expected);
        assert_eq!(address("a").groups(), Some(Vec::new()));
    }

    #[test]
    fn only_addresses_are_parsed() {
        let long = "a.".repeat(400) + "a";
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a[1]",
            "a[].b",
            "a[x].b",
            "a[1]b.c",
            "a[-1].b",
            "[1].b",
            "a]1[.b",
            "a[1][2].b",
            "A",
            "a b",
            "a[1234567890].b",
            &long,
        ] {
            assert!(bad.parse::<StepAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_step_is_within_the_steps_above_it() {
        let charge = address("charge");
        assert!(address("charge[3].pay").is_within(&charge));
        assert!(address("charge.x.y[1].pay").is_within(&charge));
        assert!(!address("charged[3].pay").is_within(&charge));
        assert!(!charge.is_within(&charge));
    }
}
