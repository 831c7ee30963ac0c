//! Drift over HTTP: the real server, real signatures, and what no well-behaved agent or operator says.

pub const TERMS: &str = "/agent/v1/drift/terms";
pub const KEY: &str = "/agent/v1/drift/key";
pub const REPORT: &str = "/agent/v1/drift/report";
