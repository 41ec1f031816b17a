//! Checks a value against a compiled schema, within a budget of work.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value};

use super::node::{CompiledPattern, Index, Kind, Node};
use super::{BYTES_PER_WORK, INPUT_PROBLEMS_MAX, InputProblem, Schema, pointer};
use crate::similar::did_you_mean;
use crate::yaml::{Path, Segment};

/// Most schemas that are applied inside each other. Each takes some hundred bytes of stack.
const DEPTH_MAX: usize = 400;
/// Steps of a pattern's automaton for one unit of work.
const STEPS_PER_WORK: usize = 2;
/// Most options of an `enum` that a message lists.
const OPTIONS_SHOWN: usize = 20;
/// Longest value of a schema in a message, in characters.
const SHOWN_CHARS: usize = 80;

/// The reason why a check ends without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The work is used up.
    Work,
    /// Schemas are applied inside each other more than [`DEPTH_MAX`] deep.
    Depth,
}

/// One check.
pub(super) struct Run<'s> {
    pub(super) schema: &'s Schema,
    work: u64,
    depth: usize,
    path: Vec<Segment>,
    /// Above 0 while a schema is only tried, so that its problems are not reported.
    quiet: usize,
    problems: Vec<InputProblem>,
}

/// The parts of a value that schemas have spoken of, for `unevaluatedProperties` and
/// `unevaluatedItems`.
#[derive(Default)]
struct Seen {
    properties: BTreeSet<String>,
    /// Number of the first items that are seen.
    items: usize,
    contained: BTreeSet<usize>,
}

impl Seen {
    fn merge(&mut self, other: Self) {
        self.properties.extend(other.properties);
        self.items = self.items.max(other.items);
        self.contained.extend(other.contained);
    }
}

type Fits = Result<bool, Stop>;

impl<'s> Run<'s> {
    pub(super) fn new(schema: &'s Schema, work: u64) -> Self {
        Self {
            schema,
            work,
            depth: 0,
            path: Vec::new(),
            quiet: 0,
            problems: Vec::new(),
        }
    }

    pub(super) fn take_problems(&mut self) -> Vec<InputProblem> {
        std::mem::take(&mut self.problems)
    }

    pub(super) fn work_left(&self) -> u64 {
        self.work
    }

    /// Spends work.
    pub(super) fn work(&mut self, units: u64) -> Result<(), Stop> {
        self.work = self.work.checked_sub(units).ok_or(Stop::Work)?;
        Ok(())
    }

    /// Spends the work of reading a text.
    pub(super) fn read(&mut self, bytes: usize) -> Result<(), Stop> {
        self.work((bytes / BYTES_PER_WORK) as u64)
    }

    /// Checks a value. The problems are in [`Run::take_problems`].
    pub(super) fn check(&mut self, index: Index, value: &Value) -> Result<(), Stop> {
        let fits = self.apply(index, value, &mut Seen::default())?;
        if !fits && self.problems.is_empty() {
            self.report("does not fit its schema".to_owned());
        }
        Ok(())
    }

    /// Reports a problem of the current value and returns false.
    fn report(&mut self, what: String) -> bool {
        self.report_at(None, what)
    }

    fn report_at(&mut self, property: Option<&str>, what: String) -> bool {
        if self.quiet == 0 && self.problems.len() < INPUT_PROBLEMS_MAX {
            let mut place = self.path.clone();
            place.extend(property.map(|name| Segment::Field(name.to_owned())));
            let subject = Path::default().field("input").join(&place).to_string();
            self.problems.push(InputProblem {
                path: pointer(&place),
                message: format!("`{}` {what}", subject.escape_debug()),
            });
        }
        false
    }

    /// Returns true if a failed check need not look for further problems.
    fn may_stop(&self) -> bool {
        self.quiet > 0 || self.problems.len() >= INPUT_PROBLEMS_MAX
    }

    /// Applies a schema to the current value.
    fn apply(&mut self, index: Index, value: &Value, seen: &mut Seen) -> Fits {
        self.work(1)?;
        if self.depth >= DEPTH_MAX {
            return Err(Stop::Depth);
        }
        let schema = self.schema;
        let Some(node) = schema.nodes.get(index) else {
            return Ok(true);
        };
        if node.refuses {
            return Ok(self.report("is not allowed".to_owned()));
        }
        let kind = Kind::of(value);
        if !node.kinds.is_empty() && !node.kinds.iter().any(|wanted| wanted.takes(kind)) {
            let wanted: Vec<_> = node.kinds.iter().map(|kind| kind.words()).collect();
            let what = format!("must be {}, and is {}", wanted.join(" or "), kind.words());
            return Ok(self.report(what));
        }
        self.depth += 1;
        let mut own = Seen::default();
        let fits = self.apply_all(node, value, &mut own);
        self.depth -= 1;
        if fits? {
            if schema.tracks {
                seen.merge(own);
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn apply_all(&mut self, node: &Node, value: &Value, seen: &mut Seen) -> Fits {
        let mut fits = self.check_values(node, value)?;
        if !fits && self.may_stop() {
            return Ok(false);
        }
        fits &= match value {
            Value::Number(number) => self.check_number(node, number),
            Value::String(text) => self.check_text(node, text)?,
            _ => true,
        };
        if !fits && self.may_stop() {
            return Ok(false);
        }
        fits &= self.combine(node, value, seen)?;
        if !fits && self.may_stop() {
            return Ok(false);
        }
        fits &= match value {
            Value::Array(items) => self.check_list(node, items, seen)?,
            Value::Object(fields) => self.check_object(node, fields, seen)?,
            _ => true,
        };
        Ok(fits)
    }

    fn check_values(&mut self, node: &Node, value: &Value) -> Fits {
        if let Some(constant) = &node.constant
            && !self.equal(constant, value)?
        {
            return Ok(self.report(format!("must be {}", shown(constant))));
        }
        if let Some(options) = &node.options {
            for option in options {
                if self.equal(option, value)? {
                    return Ok(true);
                }
            }
            let more = if options.len() > OPTIONS_SHOWN {
                ", …"
            } else {
                ""
            };
            let options: Vec<_> = options.iter().take(OPTIONS_SHOWN).map(shown).collect();
            return Ok(self.report(format!("must be one of {}{more}", options.join(", "))));
        }
        Ok(true)
    }

    fn check_number(&mut self, node: &Node, number: &Number) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let numbers = &node.numbers;
        let order = |bound: &Number| compare(number, bound);
        let mut fits = true;
        if let Some(bound) = numbers
            .minimum
            .as_ref()
            .filter(|bound| order(bound) == Less)
        {
            fits = self.report(format!("must be at least {bound}"));
        }
        if let Some(bound) = numbers
            .maximum
            .as_ref()
            .filter(|bound| order(bound) == Greater)
        {
            fits = self.report(format!("must be at most {bound}"));
        }
        let is_above = |bound: &&Number| matches!(order(bound), Less | Equal);
        if let Some(bound) = numbers.above.as_ref().filter(is_above) {
            fits = self.report(format!("must be more than {bound}"));
        }
        let is_below = |bound: &&Number| matches!(order(bound), Greater | Equal);
        if let Some(bound) = numbers.below.as_ref().filter(is_below) {
            fits = self.report(format!("must be less than {bound}"));
        }
        if let Some(step) = numbers
            .multiple_of
            .as_ref()
            .filter(|step| !is_multiple(number, step))
        {
            fits = self.report(format!("must be a multiple of {step}"));
        }
        fits
    }

    fn check_text(&mut self, node: &Node, text: &str) -> Fits {
        let strings = &node.strings;
        let mut fits = true;
        if strings.shortest.is_some() || strings.longest.is_some() {
            self.read(text.len())?;
            let length = text.chars().count() as u64;
            if let Some(least) = strings.shortest.filter(|least| length < *least) {
                let what = match (length, least) {
                    (0, 1) => "must not be empty".to_owned(),
                    _ => format!("must have at least {}", counted(least, "character")),
                };
                fits = self.report(what);
            }
            if let Some(most) = strings.longest.filter(|most| length > *most) {
                fits = self.report(format!("must have at most {}", counted(most, "character")));
            }
        }
        if let Some(pattern) = &strings.pattern
            && !self.matches(pattern, text)?
        {
            fits = self.report(format!("must match the pattern `{:.200}`", pattern.text));
        }
        if let Some(format) = strings.format {
            self.read(text.len())?;
            if !format.fits(text) {
                fits = self.report(format!("must be {}", format.words()));
            }
        }
        Ok(fits)
    }

    fn matches(&mut self, pattern: &CompiledPattern, text: &str) -> Fits {
        // Matching takes up to one step of the automaton, some 100 ns, for each of its states.
        let states = pattern.text.len().min(64);
        self.work((text.len().saturating_mul(states) / STEPS_PER_WORK) as u64)?;
        Ok(pattern.regex.is_match(text))
    }

    /// Applies the schemas that speak of the same value.
    fn combine(&mut self, node: &Node, value: &Value, seen: &mut Seen) -> Fits {
        let mut fits = true;
        for index in node.reference.iter().chain(&node.all_of) {
            fits &= self.apply(*index, value, seen)?;
            if !fits && self.may_stop() {
                return Ok(false);
            }
        }
        if !node.any_of.is_empty() {
            fits &= self.one_fits(&node.any_of, value, seen, false)?;
        }
        if !node.one_of.is_empty() {
            fits &= self.one_fits(&node.one_of, value, seen, true)?;
        }
        if let Some(not) = node.not
            && self.tries(not, value, &mut Seen::default())?
        {
            fits = self.report("must not fit what the schema excludes (`not`)".to_owned());
        }
        if let Some(condition) = node.condition {
            let mut tried = Seen::default();
            let branch = if self.tries(condition, value, &mut tried)? {
                seen.merge(tried);
                node.then
            } else {
                node.otherwise
            };
            if let Some(branch) = branch {
                fits &= self.apply(branch, value, seen)?;
            }
        }
        if let Value::Object(fields) = value {
            for (name, index) in &node.objects.schemas_with {
                if fields.contains_key(name) {
                    fits &= self.apply(*index, value, seen)?;
                }
            }
        }
        Ok(fits)
    }

    /// Applies a schema without reporting problems.
    fn tries(&mut self, index: Index, value: &Value, seen: &mut Seen) -> Fits {
        self.quiet += 1;
        let fits = self.apply(index, value, seen);
        self.quiet -= 1;
        fits
    }

    fn one_fits(
        &mut self,
        schemas: &[Index],
        value: &Value,
        seen: &mut Seen,
        exactly: bool,
    ) -> Fits {
        let mut fitting = 0;
        for index in schemas {
            let mut tried = Seen::default();
            if self.tries(*index, value, &mut tried)? {
                fitting += 1;
                seen.merge(tried);
                if !exactly && !self.schema.tracks {
                    return Ok(true);
                }
            }
        }
        match fitting {
            0 => self.none_fits(schemas, value),
            1 => Ok(true),
            _ if !exactly => Ok(true),
            _ => Ok(self.report(format!(
                "must fit exactly one of {} alternatives, and fits {fitting}",
                schemas.len()
            ))),
        }
    }

    /// Reports a value that fits no alternative. If the type leaves one alternative, its problems
    /// are reported.
    fn none_fits(&mut self, schemas: &[Index], value: &Value) -> Fits {
        if self.quiet > 0 {
            return Ok(false);
        }
        let kind = Kind::of(value);
        let schema = self.schema;
        let kinds_of = |index: &Index| {
            let mut next = schema.nodes.get(*index);
            let mut kinds: &[Kind] = &[];
            for _ in 0..8 {
                let Some(node) = next else { break };
                kinds = &node.kinds;
                if !kinds.is_empty() {
                    break;
                }
                next = node.reference.and_then(|index| schema.nodes.get(index));
            }
            kinds
        };
        let takes = |index: &&Index| {
            let kinds = kinds_of(index);
            kinds.is_empty() || kinds.iter().any(|wanted| wanted.takes(kind))
        };
        let mut possible = schemas.iter().filter(takes);
        if let (Some(only), None) = (possible.next(), possible.next()) {
            return self.apply(*only, value, &mut Seen::default());
        }
        let mut words: Vec<&str> = schemas
            .iter()
            .flat_map(kinds_of)
            .map(|kind| kind.words())
            .collect();
        words.dedup();
        let all_have_kinds = schemas.iter().all(|index| !kinds_of(index).is_empty());
        if all_have_kinds && schemas.iter().all(|index| !takes(&index)) {
            let what = format!("must be {}, and is {}", words.join(" or "), kind.words());
            return Ok(self.report(what));
        }
        Ok(self.report(format!("fits none of {} alternatives", schemas.len())))
    }

    fn check_list(&mut self, node: &Node, items: &[Value], seen: &mut Seen) -> Fits {
        let lists = &node.lists;
        let count = items.len() as u64;
        let mut fits = true;
        if let Some(least) = lists.least.filter(|least| count < *least) {
            fits = self.report(format!("must have at least {}", counted(least, "item")));
        }
        if let Some(most) = lists.most.filter(|most| count > *most) {
            fits = self.report(format!("must have at most {}", counted(most, "item")));
        }
        if lists.unique && !self.all_differ(items)? {
            fits = self.report("must not have equal items".to_owned());
        }
        for (place, item) in items.iter().enumerate() {
            let Some(index) = lists.prefix.get(place).copied().or(lists.items) else {
                break;
            };
            fits &= self.item(index, place, item)?;
            if !fits && self.may_stop() {
                return Ok(false);
            }
        }
        seen.items = match lists.items {
            Some(_) => usize::MAX,
            None => seen.items.max(lists.prefix.len()),
        };
        if let Some(contains) = lists.contains {
            fits &= self.check_contained(node, contains, items, seen)?;
        }
        if let Some(index) = lists.unevaluated {
            for (place, item) in items.iter().enumerate().skip(seen.items) {
                if !seen.contained.contains(&place) {
                    fits &= self.item(index, place, item)?;
                }
            }
            seen.items = usize::MAX;
        }
        Ok(fits)
    }

    fn item(&mut self, index: Index, place: usize, item: &Value) -> Fits {
        self.path.push(Segment::Index(place));
        let fits = self.apply(index, item, &mut Seen::default());
        self.path.pop();
        fits
    }

    fn check_contained(
        &mut self,
        node: &Node,
        contains: Index,
        items: &[Value],
        seen: &mut Seen,
    ) -> Fits {
        let mut count = 0_u64;
        for (place, item) in items.iter().enumerate() {
            if self.tries(contains, item, &mut Seen::default())? {
                count += 1;
                if self.schema.tracks {
                    seen.contained.insert(place);
                }
            }
        }
        let least = node.lists.contains_least.unwrap_or(1);
        if count < least {
            let what = format!(
                "must have at least {} that the schema asks for (`contains`), and has {count}",
                counted(least, "item")
            );
            return Ok(self.report(what));
        }
        if let Some(most) = node.lists.contains_most.filter(|most| count > *most) {
            let what = format!(
                "must have at most {} of those that `contains` describes, and has {count}",
                counted(most, "item")
            );
            return Ok(self.report(what));
        }
        Ok(true)
    }

    fn check_object(&mut self, node: &Node, fields: &Map<String, Value>, seen: &mut Seen) -> Fits {
        let objects = &node.objects;
        let mut fits = self.check_names(node, fields)?;
        for (name, value) in fields {
            if !fits && self.may_stop() {
                return Ok(false);
            }
            self.work(1)?;
            let mut known = false;
            if let Some(index) = objects.properties.get(name) {
                known = true;
                fits &= self.property(*index, name, value)?;
            }
            for (pattern, index) in &objects.by_pattern {
                if self.matches(pattern, name)? {
                    known = true;
                    fits &= self.property(*index, name, value)?;
                }
            }
            if !known && let Some(index) = objects.additional {
                known = true;
                fits &= self.additional(node, index, name, value)?;
            }
            if known && self.schema.tracks {
                seen.properties.insert(name.clone());
            }
        }
        if let Some(index) = objects.unevaluated {
            for (name, value) in fields {
                if !seen.properties.contains(name) {
                    fits &= self.additional(node, index, name, value)?;
                }
            }
            seen.properties.extend(fields.keys().cloned());
        }
        Ok(fits)
    }

    /// Checks the number and the names of an object's properties.
    fn check_names(&mut self, node: &Node, fields: &Map<String, Value>) -> Fits {
        let objects = &node.objects;
        let count = fields.len() as u64;
        let mut fits = true;
        if let Some(least) = objects.least.filter(|least| count < *least) {
            fits = self.report(format!("must have at least {}", counted(least, "property")));
        }
        if let Some(most) = objects.most.filter(|most| count > *most) {
            fits = self.report(format!("must have at most {}", counted(most, "property")));
        }
        for name in &objects.required {
            self.work(1)?;
            if !fields.contains_key(name) {
                fits = self.report_at(Some(name), "is missing".to_owned());
            }
        }
        for (present, needed) in &objects.needed_with {
            for name in needed.iter().filter(|_| fields.contains_key(present)) {
                self.work(1)?;
                if !fields.contains_key(name) {
                    let what = format!("is missing; `{}` needs it", present.escape_debug());
                    fits = self.report_at(Some(name), what);
                }
            }
        }
        if let Some(index) = objects.names {
            for name in fields.keys() {
                if !self.tries(index, &Value::from(name.as_str()), &mut Seen::default())? {
                    let what = "has a name that is not allowed here (`propertyNames`)".to_owned();
                    fits = self.report_at(Some(name), what);
                }
            }
        }
        Ok(fits)
    }

    fn property(&mut self, index: Index, name: &str, value: &Value) -> Fits {
        self.path.push(Segment::Field(name.to_owned()));
        let fits = self.apply(index, value, &mut Seen::default());
        self.path.pop();
        fits
    }

    /// Applies `additionalProperties` or `unevaluatedProperties` to a property.
    fn additional(&mut self, node: &Node, index: Index, name: &str, value: &Value) -> Fits {
        if self
            .schema
            .nodes
            .get(index)
            .is_some_and(|node| node.refuses)
        {
            let known = node.objects.properties.keys().map(String::as_str);
            let what = format!("is not a known property{}", did_you_mean(name, known));
            return Ok(self.report_at(Some(name), what));
        }
        self.property(index, name, value)
    }

    /// Returns true if two values are equal; `1` and `1.0` are.
    fn equal(&mut self, one: &Value, other: &Value) -> Fits {
        self.work(1)?;
        Ok(match (one, other) {
            (Value::Number(one), Value::Number(other)) => {
                compare(one, other) == std::cmp::Ordering::Equal
            }
            (Value::String(one), Value::String(other)) => one == other,
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                for (one, other) in one.iter().zip(other) {
                    if !self.equal(one, other)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Object(one), Value::Object(other)) if one.len() == other.len() => {
                for (name, one) in one {
                    match other.get(name) {
                        Some(other) if self.equal(one, other)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Array(_) | Value::Object(_), _) => false,
            (one, other) => one == other,
        })
    }

    fn all_differ(&mut self, items: &[Value]) -> Fits {
        let mut known = BTreeSet::new();
        for item in items {
            let text = canonical(item);
            self.read(text.len())?;
            self.work(2)?;
            if !known.insert(text) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns a text that is the same for equal values.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_f64() {
            // A whole number that a double holds exactly.
            Some(double) if number.is_f64() && double.fract() == 0.0 && double.abs() < 9e15 => {
                (double as i64).to_string()
            }
            _ => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            let fields: std::collections::BTreeMap<_, _> = fields.iter().collect();
            let fields = fields.into_iter().map(|(name, value)| {
                format!("{}:{}", Value::from(name.as_str()), canonical(value))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn compare(one: &Number, other: &Number) -> std::cmp::Ordering {
    let whole = |number: &Number| {
        let signed = number.as_i64().map(i128::from);
        signed.or_else(|| number.as_u64().map(i128::from))
    };
    if let (Some(one), Some(other)) = (whole(one), whole(other)) {
        return one.cmp(&other);
    }
    let double = |number: &Number| number.as_f64().unwrap_or(f64::NAN);
    let order = double(one).partial_cmp(&double(other));
    order.unwrap_or(std::cmp::Ordering::Equal)
}

fn is_multiple(number: &Number, step: &Number) -> bool {
    if let (Some(number), Some(step)) = (number.as_i64(), step.as_i64()) {
        return step != 0 && number % step == 0;
    }
    let double = |number: &Number| number.as_f64().unwrap_or(f64::NAN);
    let quotient = double(number) / double(step);
    // 19.99 is a multiple of 0.01, though their doubles are not.
    (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().max(1.0)
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn counted(count: u64, noun: &str) -> String {
    match (count, noun) {
        (1, noun) => format!("1 {noun}"),
        (count, "property") => format!("{count} properties"),
        (count, noun) => format!("{count} {noun}s"),
    }
}
