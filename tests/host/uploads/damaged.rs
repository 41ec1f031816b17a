//! Components with missing pieces and changed bits.

use super::{assert_well, host, upload};
use crate::harness::guest_bytes;
use crate::text_guest::TextGuest;

/// A generator of the same numbers in each run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).expect("fits")
    }
}

#[test]
fn a_component_that_is_cut_is_refused_wherever_the_cut_is() {
    let whole = guest_bytes("hello");
    let cuts = (8..64)
        .chain((64..whole.len()).step_by(whole.len() / 150))
        .chain([whole.len() - 1]);
    for cut in cuts {
        let reply = upload(whole.get(..cut).expect("is shorter"));
        assert_eq!(reply.status, 422, "{cut}: {}", reply.json);
        // A cut between two sections leaves a component that lacks its last parts.
        let codes = ["not-a-component", "missing-export", "compile-failed"];
        assert!(
            codes.contains(&reply.code()) && !reply.message().is_empty(),
            "{cut}: {}",
            reply.json
        );
    }
    assert_well(host());
}

#[test]
fn changed_bits_are_refused_or_harmless() {
    let small = TextGuest::named("flipped").bytes();
    let real = guest_bytes("hello");
    let mut numbers = Numbers(7);
    for (whole, flips) in [(&small, 250), (&real, 50)] {
        for _ in 0..flips {
            let mut component = whole.clone();
            let (at, bit) = (numbers.below(component.len()), numbers.below(8));
            *component.get_mut(at).expect("is inside") ^= 1 << bit;
            let reply = upload(&component);
            assert!(
                matches!(reply.status, 200 | 201 | 409 | 422),
                "bit {bit} of byte {at}: {}",
                reply.json
            );
            assert!(
                reply.status < 400 || !reply.message().is_empty(),
                "{}",
                reply.json
            );
        }
    }
    assert_well(host());
    assert!(!host().log().contains(" panicked at "), "{}", host().log());
}
