//! The rules, from the outside: definitions, expressions, and the effect of events on an instance.

mod children;
mod decisions;
mod definitions;
mod documentation;
mod endings;
mod expressions;
mod groups;
mod progress;
mod schema;
mod transitions;
mod yaml;
