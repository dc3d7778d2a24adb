//! Passes requests on to another server.
