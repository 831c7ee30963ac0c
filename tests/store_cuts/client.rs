//! A client: the only one that speaks for its hosts, one operation at a time.

use regild::clock;
use std::collections::HashMap;

use crate::dice::Dice;
use crate::life::{Life, Op};

/// The road to a server.
pub trait Door {
    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`Broken`].
    fn perform(&mut self, life: &Life, op: Op, attempt: Option<&Attempt>) -> Result<Answer, Broken>;
}

#[derive(Debug)]
pub enum Answer {
    Done,
    /// The script of the deploy environment.
    Agent(Attempt),
    /// The script of a local boot.
    Local,
    /// State and cause of each line.
    History(Vec<(String, String)>),
}

/// Why there is no good answer.
#[derive(Debug)]
pub enum Broken {
    /// The server is gone: what was asked may have been done or not.
    Cut,
    /// The server says no, which it never should here.
    Refused(String),
}

/// What the agent of one attempt has.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub generation: u64,
    pub token: String,
    pub session: String,
}

impl Attempt {
    pub fn new(generation: u64, token: String) -> Attempt {
        Attempt { generation, token, session: clock::random_hex::<16>() }
    }
}

#[derive(Debug)]
pub struct Client<D> {
    pub door: D,
    pub lives: Vec<Life>,
    attempts: HashMap<u8, Attempt>,
    dice: Dice,
}

impl<D: Door> Client<D> {
    pub fn new(door: D, lives: Vec<Life>, dice: Dice) -> Client<D> {
        Client { door, lives, attempts: HashMap::new(), dice }
    }

    /// Lives until the server is gone; tells each answer, and gives what was under way.
    pub fn live(&mut self, mut answered: impl FnMut(u8, Op)) -> Op {
        loop {
            let at = self.dice.below(self.lives.len() as u64) as usize;
            let life = &self.lives[at];
            let number = life.number;
            let op = life.next(&mut self.dice, self.attempts.contains_key(&number));
            match self.door.perform(life, op, self.attempts.get(&number)) {
                Ok(answer) => {
                    self.agrees(at, op, answer);
                    self.lives[at].apply(op);
                    answered(number, op);
                }
                Err(Broken::Cut) => {
                    if op == Op::Script {
                        self.attempts.remove(&number);
                    }
                    return op;
                }
                Err(Broken::Refused(why)) => panic!("{op:?} was refused: {why}; {:?}", self.lives[at]),
            }
        }
    }

    /// Compares an answer with what the answers before it promised.
    fn agrees(&mut self, at: usize, op: Op, answer: Answer) {
        let life = &self.lives[at];
        match answer {
            Answer::Done => {}
            Answer::Agent(attempt) => {
                assert!(life.may_be_written(), "{op:?} boots the agent without an order: {life:?}");
                self.attempts.insert(life.number, attempt);
            }
            Answer::Local => assert!(!life.may_be_written(), "{op:?} boots the disk, but an order is open: {life:?}"),
            Answer::History(lines) => {
                let same = |(line, (to, cause)): (&crate::life::Line, &(String, String))| {
                    line.to == *to && cause.contains(&line.says)
                };
                let agree = life.lines.len() == lines.len() && life.lines.iter().zip(&lines).all(same);
                assert!(agree, "the history is {lines:?}, answered was {:?}", life.lines);
            }
        }
    }
}
