//! Command line and environment; all mistakes reported at once, before anything binds.
