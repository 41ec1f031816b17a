//! Starts many instances of a workflow from one step, and reports on them from another.

mod report;
mod spread;

stepwell_guest::plugin! { steps: [spread::Spread, report::Report] }
