//! The `traceparent` header of the W3C trace context, <https://www.w3.org/TR/trace-context/#traceparent-header>.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::text::quoted;

/// Which trace something belongs to, and which step of it has brought it about: the value of the header `traceparent`.
///
/// ```
/// use annals::event::TraceParent;
///
/// let parent: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
/// assert!(parent.is_sampled());
/// let child = parent.with_span_id(0x00f0_67aa_0ba9_02b7);
/// assert_eq!(child.to_string(), "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceParent {
    /// A step of a trace. An identity of 0 is none, and becomes 1.
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Self {
        Self { trace_id: trace_id.max(1), span_id: span_id.max(1), flags: u8::from(sampled) }
    }

    /// The trace.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The step.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether somebody records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Another step of the same trace.
    #[must_use]
    pub fn with_span_id(self, span_id: u64) -> Self {
        Self { span_id: span_id.max(1), ..self }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            Error::invalid(format!(
                "the trace parent {} is none; it has the form 00-<32 hexadecimal digits>-<16>-<2>, and neither identity is 0",
                quoted(text)
            ))
        })
    }
}

fn parse(text: &str) -> Option<TraceParent> {
    let mut parts = text.split('-');
    let version = hexadecimal(parts.next()?, 2)?;
    let trace_id = hexadecimal(parts.next()?, 32)?;
    let span_id = hexadecimal(parts.next()?, 16)?;
    let flags = hexadecimal(parts.next()?, 2)?;
    // A later version may have more behind; this one has not, and 255 is none.
    if version == 0xff || (version == 0 && parts.next().is_some()) || trace_id == 0 || span_id == 0 {
        return None;
    }
    Some(TraceParent { trace_id, span_id: u64::try_from(span_id).ok()?, flags: u8::try_from(flags).ok()? })
}

fn hexadecimal(digits: &str, len: usize) -> Option<u128> {
    let lower = digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
    (digits.len() == len && lower).then(|| u128::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::TraceParent;

    #[test]
    fn what_is_no_trace_parent_is_refused() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(good.parse::<TraceParent>().is_ok());
        assert!(format!("01{}-what-comes-later", &good[2..]).parse::<TraceParent>().is_ok());
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id in 1..u128::MAX, span_id in 1..u64::MAX, sampled: bool) {
            let parent = TraceParent::new(trace_id, span_id, sampled);
            prop_assert_eq!(parent.to_string().parse::<TraceParent>().unwrap(), parent);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = text.parse::<TraceParent>().map(drop);
        }
    }
}
