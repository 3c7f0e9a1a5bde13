//! HTTP: health.
