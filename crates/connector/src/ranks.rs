//! Whom a rank pulls from, and what: a pure function of both instances' topologies.
