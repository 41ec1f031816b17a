//! A parser of server-sent events, as far as Stepwell sends them: `event:` and `data:` of one line
//! each.

/// Longest line. A snapshot has a few kilobytes; alerts may have more.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Collects bytes until an event is complete.
#[derive(Default)]
pub(super) struct Events {
    line: Vec<u8>,
    name: String,
    data: Option<String>,
}

/// A complete event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

impl Events {
    /// Takes the bytes that were read and passes every complete event to `tell`.
    ///
    /// # Errors
    /// A line is too long, or is not UTF-8.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(Event),
    ) -> Result<(), &'static str> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > LINE_BYTES_MAX {
                return Err("a line of the stream is too long");
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = std::str::from_utf8(&line).map_err(|_| "the stream is not text")?;
                if let Some(event) = self.end_line(line.trim_end_matches(['\n', '\r'])) {
                    tell(event);
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data = Some(value.to_owned()),
            // A comment, or the time after which to reconnect.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let text = "retry: 2000\n\n:\n\nevent: stats\ndata: {\"a\": \"é:\"}\n\nevent: alerts\r\ndata:{}\r\n\r\nevent: half\n";
        let expected = [("stats", "{\"a\": \"é:\"}"), ("alerts", "{}")];
        for size in 1..text.len() {
            let (mut events, mut told) = (Events::default(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                events
                    .push(part, |event| told.push((event.name, event.data)))
                    .expect("is a stream");
            }
            let told: Vec<_> = told
                .iter()
                .map(|(name, data)| (name.as_str(), data.as_str()))
                .collect();
            assert_eq!(told, expected, "{size}");
        }
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let mut events = Events::default();
        let part = vec![b'x'; 1 << 20];
        let results: Vec<_> = (0..17).map(|_| events.push(&part, |_| {})).collect();
        assert!(
            results.first().is_some_and(Result::is_ok)
                && results.last().is_some_and(Result::is_err)
        );
        assert!(Events::default().push(b"\xff\n", |_| {}).is_err());
    }
}
