//! The whole program from the outside: the real binary, HTTP, real guests, a real database.

mod harness;
mod smoke;
