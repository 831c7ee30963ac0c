//! What happened, for whoever looks for a bug. Nothing is formatted while it is off: a seed that fails is run again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

const LINES_MAX: usize = 300;

#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Rc<RefCell<Lines>>>);

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    printed: bool,
}

impl Trace {
    /// Keeps the last lines.
    pub fn kept() -> Trace {
        Trace(Some(Rc::default()))
    }

    /// Prints each line.
    pub fn printed() -> Trace {
        Trace(Some(Rc::new(RefCell::new(Lines { printed: true, ..Lines::default() }))))
    }

    pub fn line(&self, line: impl FnOnce() -> String) {
        let Some(lines) = &self.0 else { return };
        let (line, mut lines) = (line(), lines.borrow_mut());
        if lines.printed {
            println!("{line}");
            return;
        }
        if lines.kept.len() == LINES_MAX {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
    }

    pub fn tail(&self) -> String {
        let lines = self.0.as_ref().map(|lines| lines.borrow().kept.iter().cloned().collect::<Vec<_>>().join("\n"));
        lines.unwrap_or_default()
    }
}
