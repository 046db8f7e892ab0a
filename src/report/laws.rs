//! What holds for the report of every session.
