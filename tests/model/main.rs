//! The rules, from the outside: definitions, expressions and what events do to an instance.

mod definitions;
mod documentation;
mod expressions;
mod progress;
mod transitions;
