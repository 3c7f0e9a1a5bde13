//! Phone lines, SIP servers, credentials at rest, and when a line registers.
