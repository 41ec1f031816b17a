//! Finds the variables, steps and functions that an expression refers to.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, SelectExpr};

use super::functions;
use crate::similar::did_you_mean;

/// Variables of an expression.
pub(super) const VARIABLES: [&str; 4] = ["input", "steps", "instance", "now"];
/// Variables that only some steps have.
const BLOCK_VARIABLES: [&str; 4] = ["item", "index", "previous", "failure"];
/// Fields of `steps.<id>`.
const STEP_FIELDS: [&str; 3] = ["output", "status", "failure"];
/// Fields of `instance`.
const INSTANCE_FIELDS: [&str; 6] = [
    "id",
    "workflow",
    "version",
    "entity_type",
    "entity_id",
    "started_by",
];

/// A walk through a parsed expression that collects what it refers to.
pub(super) struct ExpressionScan<'p> {
    /// Returns the offset of a name in a part of the expression, in characters.
    place: &'p dyn Fn(u64, &str) -> usize,
    pub(super) steps: Vec<(String, usize)>,
    pub(super) block_variables: Vec<(&'static str, usize)>,
    pub(super) unknown: Option<(String, usize)>,
    pub(super) objections: Vec<(String, usize)>,
    bound: Vec<String>,
}

impl<'p> ExpressionScan<'p> {
    pub(super) fn new(place: &'p dyn Fn(u64, &str) -> usize) -> Self {
        Self {
            place,
            steps: Vec::new(),
            block_variables: Vec::new(),
            unknown: None,
            objections: Vec::new(),
            bound: Vec::new(),
        }
    }

    fn object(&mut self, id: u64, name: &str, problem: String) {
        let offset = (self.place)(id, name);
        self.objections.push((problem, offset));
    }

    /// Returns true if the expression is this variable, and not a macro's variable of the same
    /// name.
    fn is_variable(&self, expression: &IdedExpr, name: &str) -> bool {
        matches!(&expression.expr, Expr::Ident(ident) if ident == name)
            && !self.bound.iter().any(|bound| bound == name)
    }

    /// Objects to a field that `steps.<id>` or `instance` never has. `has` may test such a field.
    fn visit_field(&mut self, expression: &IdedExpr, select: &SelectExpr) {
        let of_step = matches!(&select.operand.expr, Expr::Select(step) if self.is_variable(&step.operand, "steps"));
        let of_instance = self.is_variable(&select.operand, "instance");
        let (owner, known): (_, &[&str]) = match (of_step, of_instance) {
            (true, _) => ("steps.<id>", &STEP_FIELDS),
            (_, true) => ("instance", &INSTANCE_FIELDS),
            _ => return,
        };
        let field = select.field.as_str();
        if !select.test && !known.contains(&field) && self.objections.is_empty() {
            let hint = did_you_mean(field, known.iter().copied());
            let problem = format!(
                "`{owner}` has no `{field}`{hint}; it has {}",
                known.join(", ")
            );
            self.object(expression.id, field, problem);
        }
    }

    pub(super) fn visit(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "steps") {
                    let offset = (self.place)(select.operand.id, "steps");
                    self.steps.push((select.field.clone(), offset));
                }
                self.visit_field(expression, select);
                self.visit(&select.operand);
            }
            Expr::Ident(name) => {
                let known = VARIABLES.contains(&name.as_str()) || self.bound.contains(name);
                let of_block = BLOCK_VARIABLES.into_iter().find(|known| known == name);
                if let Some(variable) = of_block.filter(|_| !known) {
                    let offset = (self.place)(expression.id, name);
                    self.block_variables.push((variable, offset));
                } else if !known && self.unknown.is_none() {
                    self.unknown = Some((name.clone(), (self.place)(expression.id, name)));
                }
            }
            Expr::Call(call) => {
                let called = functions::qualified(call.target.as_deref(), &call.func_name);
                let is_operator = call.func_name.contains(['_', '@']);
                let name = called.full_name();
                let is_known = is_operator || functions::NAMES.contains(&name.as_str());
                if !is_known && self.objections.is_empty() {
                    let hint = did_you_mean(&name, functions::NAMES);
                    let problem = format!(
                        "there is no function `{name}`{hint}; there are {}, and the macros has, all, exists, exists_one, \
                         map and filter",
                        functions::NAMES.join(", ")
                    );
                    self.object(expression.id, &call.func_name, problem);
                }
                call.target
                    .iter()
                    .filter(|_| called.is_plain())
                    .for_each(|target| self.visit(target));
                call.args.iter().for_each(|argument| self.visit(argument));
            }
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range);
                self.visit(&comprehension.accu_init);
                let bound_before = self.bound.len();
                self.bound.extend([
                    comprehension.iter_var.clone(),
                    comprehension.accu_var.clone(),
                ]);
                self.bound.extend(comprehension.iter_var2.clone());
                self.visit(&comprehension.loop_cond);
                self.visit(&comprehension.loop_step);
                self.visit(&comprehension.result);
                self.bound.truncate(bound_before);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element)),
            Expr::Map(map) => map
                .entries
                .iter()
                .for_each(|entry| self.visit_entry(&entry.expr)),
            Expr::Struct(structure) => structure
                .entries
                .iter()
                .for_each(|entry| self.visit_entry(&entry.expr)),
            _ => {}
        }
    }

    fn visit_entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
        }
    }
}
