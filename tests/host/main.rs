//! The whole program from the outside: the real binary, HTTP, real guests, a real database.

mod approvals;
mod cli;
mod crash;
mod demo;
mod engine;
mod harness;
mod http;
mod smoke;
