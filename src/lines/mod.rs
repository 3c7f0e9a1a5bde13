//! Phone lines, SIP servers, credentials at rest, and when a line registers.
//!
//! | file | what it holds |
//! |---|---|
//! | [`credentials`] | encryption and decryption of passwords |

pub mod credentials;
