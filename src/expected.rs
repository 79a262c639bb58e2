//! What a conditional append expects to find.

/// What must be the newest record, of a key or of a partition, for a conditional append to be carried out: the optimistic lock of
/// event sourcing. Taken by [`Topic::produce_if`](crate::Topic::produce_if) and its kin, and given back by
/// [`Error::current_version`](crate::Error::current_version) of what was refused.
///
/// | | a key | a partition |
/// |---|---|---|
/// | [`Any`](Expected::Any) | whatever there is | whatever there is |
/// | [`Empty`](Expected::Empty) | no record has it, or the newest is a tombstone | nothing was ever written to it |
/// | [`Exact(n)`](Expected::Exact) | the newest record that has it is at offset n | the newest record is at offset n |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Nothing in particular: the append is not conditional.
    Any,
    /// Nothing.
    Empty,
    /// A record at this offset.
    Exact(u64),
}

impl Expected {
    /// Whether this is what was expected, where `current` is what there is.
    pub(crate) fn is_met_by(self, current: Self) -> bool {
        self == Self::Any || self == current
    }
}
