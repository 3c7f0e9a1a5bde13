//! `CallerId`: which number a callee is shown, where that is not the line's own. As at Twilio it is one of ours, the
//! number of a line in use; in a `<Dial>` it may also be that of the caller.

use super::place::PlaceError;
use crate::core::numbers::to_e164;
use crate::core::private::Private;
use crate::fleet::LineDirectory;
use crate::fleet::LineProfile;

/// The number to be shown by a call of this line; `caller` is who rings, where it is called for him.
///
/// # Errors
/// Where the number is nobody's.
pub(super) fn shown(
    lines: &LineDirectory,
    line: &LineProfile,
    wanted: &Private,
    caller: Option<&Private>,
) -> Result<Private, PlaceError> {
    let number = e164(wanted, line).ok_or(PlaceError::CallerId)?;
    let is_callers = || caller.and_then(|caller| e164(caller, line)).as_ref() == Some(&number);
    let is_ours = !lines.with_number(number.expose()).is_empty() || is_callers();
    is_ours.then_some(number).ok_or(PlaceError::CallerId)
}

/// Digits, with a plus where it is complete: nothing else is written into From.
fn e164(number: &Private, line: &LineProfile) -> Option<Private> {
    to_e164(number.expose(), line.dial.country).map(Private::new)
}
