//! Pending transfers: a set that is nearly always empty, and nearly never has more than one.

use super::SagaId;

/// The transfers from an account that have begun and not ended, in ascending order.
///
/// In one log a transfer begins and ends at once, so one is held without memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Pending {
    #[default]
    None,
    One(SagaId),
    /// Two or more.
    Many(Vec<SagaId>),
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::None
    }

    pub(super) fn as_slice(&self) -> &[SagaId] {
        match self {
            Self::None => &[],
            Self::One(saga_id) => std::slice::from_ref(saga_id),
            Self::Many(saga_ids) => saga_ids,
        }
    }

    /// Adds a transfer; says whether it was not there yet.
    pub(super) fn insert(&mut self, saga_id: SagaId) -> bool {
        let Err(place) = self.as_slice().binary_search(&saga_id) else { return false };
        match self {
            Self::None => *self = Self::One(saga_id),
            Self::One(held) => {
                let mut both = vec![*held];
                both.insert(place, saga_id);
                *self = Self::Many(both);
            }
            Self::Many(saga_ids) => saga_ids.insert(place, saga_id),
        }
        true
    }

    /// Takes a transfer out; says whether it was there.
    pub(super) fn remove(&mut self, saga_id: SagaId) -> bool {
        let Ok(place) = self.as_slice().binary_search(&saga_id) else { return false };
        match self {
            Self::None | Self::One(_) => *self = Self::None,
            Self::Many(saga_ids) => {
                saga_ids.remove(place);
                if let [last] = saga_ids[..] {
                    *self = Self::One(last);
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    proptest! {
        #[test]
        fn it_is_an_ordered_set(steps in prop::collection::vec((any::<bool>(), 1..6_u128), 0..40)) {
            let (mut pending, mut model) = (Pending::default(), BTreeSet::new());
            for (adds, number) in steps {
                let saga_id = SagaId::new(Uuid::from_u128(number));
                if adds {
                    prop_assert_eq!(pending.insert(saga_id), model.insert(saga_id));
                } else {
                    prop_assert_eq!(pending.remove(saga_id), model.remove(&saga_id));
                }
                let held: Vec<SagaId> = model.iter().copied().collect();
                prop_assert_eq!(pending.as_slice(), &held[..]);
                prop_assert_eq!(pending.is_empty(), held.is_empty());
            }
        }
    }
}
