//! The scheduler half: the life of each request, decided without I/O.
