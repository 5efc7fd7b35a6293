//! What every origin has to pass.
