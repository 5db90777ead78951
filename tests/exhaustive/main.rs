//! Every reachable state of a small world: two pods, three rows of two offenders, and a few things that go wrong.
//!
//! All that decides is the service's own: places, lanes, leases, brake, memory of published rows, decisions, retries, batches.
//! What the asynchronous code does between them (`src/poller/row.rs`) is written again in [`pod`], as steps.
//!
//! `EXHAUSTIVE="3 1 2 0 1, 2 2 1 1 0" cargo test --test exhaustive` searches within other bounds: rows, places of a pod, calls
//! that fail, steps of the clock, ends of pods.

// A test crate: its helpers are test code, too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod pod;
mod world;

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::pod::Pod;
use crate::world::{Fate, Kind, Setup, Status, World};

/// The bounds of the quick tests.
const QUICK: &str = "3 1 1 0 1";
/// The steps of the clock while there is something to do. After 540 s a publish may still be sent, after 555 s no longer.
/// After 570 s the lease has ended, and after 600 s the lock.
const JUMPS: [u64; 4] = [540, 555, 570, 600];
/// All times are multiples of this many seconds, so that few states differ in nothing but their times.
const GRID: Duration = Duration::from_secs(15);

#[derive(Clone)]
struct State {
    pods: [Rc<Pod>; 2],
    world: World,
}

/// What can happen next, to which pod and to which of its rows.
#[derive(Clone, Copy, Debug)]
enum Action {
    RowIsAdded,
    Claim(usize, Fate),
    Row(usize, usize, Fate),
    Stop(usize),
    Die(usize),
    Jump(u64),
    /// No one can do anything until the next event.
    Quiet,
}

impl State {
    fn is_settled(&self) -> bool {
        let is_settled = |status| matches!(status, &Status::Deleted | &Status::Failed);
        self.world.table.iter().all(is_settled) && self.pods.iter().all(|pod| pod.is_idle())
    }

    /// First the actions of a world in which nothing goes wrong, then claims that find no row, then everything that goes wrong.
    fn actions(&self) -> Vec<Action> {
        if self.is_settled() {
            return Vec::new();
        }
        let now = self.world.now;
        let (mut well, mut claims, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for (number, pod) in self.pods.iter().enumerate() {
            for (index, task) in pod.tasks.iter().enumerate() {
                if pod.may_go_on(task, now) {
                    well.push(Action::Row(number, index, Fate::Done));
                }
                for &fate in Fate::failures(task.step) {
                    let is_possible = pod.cost(index, fate, now) <= self.world.failures;
                    if task.until.is_some() && is_possible {
                        wrong.push(Action::Row(number, index, fate));
                    }
                }
            }
            let claim = Action::Claim(number, Fate::Done);
            match pod.claim {
                Some(_) => well.push(claim),
                None if pod.may_claim(now) => claims.push(claim),
                None => {}
            }
            if pod.claim.is_some() && self.world.failures > 0 {
                wrong.push(Action::Claim(number, Fate::Failed));
            }
            if self.world.ends > 0 && !pod.is_stopping {
                wrong.push(Action::Stop(number));
            }
            if self.world.ends > 0 || pod.is_stopping {
                wrong.push(Action::Die(number));
            }
        }
        if self.world.table.contains(&Status::NotYet) {
            well.push(Action::RowIsAdded);
        }
        if self.world.oldest().is_some() {
            well.append(&mut claims);
        }
        if well.is_empty() {
            well.push(Action::Quiet);
        }
        if self.world.jumps > 0 {
            wrong.extend(JUMPS.map(Action::Jump));
        }
        [well, claims, wrong].concat()
    }

    fn after(&self, action: Action) -> Result<Self, &'static str> {
        let mut state = self.clone();
        let Self { pods, world } = &mut state;
        match action {
            Action::RowIsAdded => world.table[2] = Status::Created,
            Action::Claim(number, fate) => {
                world.failures -= u8::from(fate != Fate::Done);
                Rc::make_mut(&mut pods[number]).claim(world, fate)?;
            }
            Action::Row(number, index, fate) => {
                world.failures -= pods[number].cost(index, fate, world.now);
                Rc::make_mut(&mut pods[number]).row(world, index, fate)?;
            }
            Action::Stop(number) => {
                world.ends -= 1;
                Rc::make_mut(&mut pods[number]).is_stopping = true;
            }
            Action::Die(number) => {
                world.ends -= u8::from(!pods[number].is_stopping);
                pods[number] = Rc::new(Pod::new(world));
            }
            Action::Jump(seconds) => {
                world.jumps -= 1;
                world.now += Duration::from_secs(seconds);
            }
            Action::Quiet => {
                let ticks = pods.iter().filter_map(|pod| pod.next_tick(world.now));
                let next = world.next_unlock().into_iter().chain(ticks).min();
                let wait = next.ok_or("3: no row waits forever")? - world.now;
                world.now += GRID * u32::try_from(wait.as_secs().div_ceil(GRID.as_secs())).unwrap();
            }
        }
        for pod in pods {
            if pod.is_stopping && pod.is_idle() {
                *pod = Rc::new(Pod::new(world));
            }
            pod.check(world)?;
        }
        let mut rows = world.repeated.iter().zip(&world.counted);
        let is_counted = rows.all(|(repeated, counted)| !repeated || *counted);
        pod::promise(is_counted, "7: every redelivery is counted")?;
        Ok(state)
    }

    /// The two pods are alike, so states that differ in their order only are the same.
    fn key(&self) -> u64 {
        let mut pods = [0, 1].map(|number| {
            let mut hasher = DefaultHasher::new();
            self.pods[number].hash(&self.world, &mut hasher);
            hasher.finish()
        });
        pods.sort_unstable();
        let mut hasher = DefaultHasher::new();
        (pods, &self.world).hash(&mut hasher);
        hasher.finish()
    }
}

/// What is known of a state.
#[derive(Default)]
struct Seen {
    /// The state before it, and which of its actions led here.
    from: (u64, usize),
    /// The next state if nothing goes wrong from here. 0 if everything is settled.
    well: u64,
}

/// Visits every state once. The result is how many there are, or the broken promise and the path to it.
fn search(first: &State) -> Result<usize, String> {
    let mut seen = HashMap::from([(first.key(), Seen::default())]);
    let mut queue = VecDeque::from([(first.key(), first.clone())]);
    while let Some((key, state)) = queue.pop_front() {
        for (choice, action) in state.actions().into_iter().enumerate() {
            let after = state.after(action);
            let after = after.map_err(|broken| path_to(first, &seen, key, broken))?;
            let next = after.key();
            if choice == 0 {
                seen.get_mut(&key).unwrap().well = next;
            }
            seen.entry(next).or_insert_with(|| {
                queue.push_back((next, after));
                let from = (key, choice);
                Seen { from, well: 0 }
            });
        }
    }
    // Whether the path from each state to the end is known. False while it is being followed: meeting such a state again is a
    // cycle.
    let mut has_end = HashMap::from([(0, true)]);
    for &start in seen.keys() {
        let (mut key, mut path) = (start, Vec::new());
        while !has_end.contains_key(&key) {
            has_end.insert(key, false);
            path.push(key);
            key = seen[&key].well;
        }
        if !has_end[&key] {
            let broken = "3: every row is settled if nothing goes wrong";
            return Err(path_to(first, &seen, key, broken));
        }
        has_end.extend(path.into_iter().map(|key| (key, true)));
    }
    Ok(seen.len())
}

/// What has happened before a promise was broken.
fn path_to(first: &State, seen: &HashMap<u64, Seen>, mut key: u64, broken: &str) -> String {
    let mut choices = Vec::new();
    while key != first.key() {
        choices.push(seen[&key].from.1);
        key = seen[&key].from.0;
    }
    let (mut state, mut path) = (first.clone(), format!("promise {broken}: broken after"));
    for choice in choices.into_iter().rev() {
        let action = state.actions()[choice];
        write!(path, " {action:?}").unwrap();
        state = state.after(action).unwrap();
    }
    path + &format!(" and one of {:?}", state.actions())
}

/// Searches a world of these rows: offender, record, what is wrong. The last one may be added at any time.
fn all_promises_hold(name: &str, rows: [(i64, i64, Kind); 3]) {
    let bounds = std::env::var("EXHAUSTIVE").unwrap_or(QUICK.to_owned());
    for bounds in bounds.split(", ") {
        let numbers = bounds.split_whitespace().map(str::parse);
        let numbers: Vec<u8> = numbers.collect::<Result<_, _>>().unwrap();
        let &[count, places, failures, jumps, ends] = numbers.as_slice() else {
            panic!("EXHAUSTIVE has five numbers: rows, places, failures, jumps, ends");
        };
        let mut world = World::new(Setup::new(rows, places.into()), failures, jumps, ends);
        if count == 2 {
            world.table[2] = Status::Deleted;
        }
        let pod = Rc::new(Pod::new(&world));
        let pods = [pod.clone(), pod];
        let begin = SystemTime::now();
        let states = search(&State { pods, world });
        let seconds = begin.elapsed().unwrap_or_default().as_secs_f64();
        let line = format!("{name}, bounds {bounds}: {states:?} states, {seconds:.1} s\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        assert!(states.is_ok(), "{states:?}");
    }
}

#[test]
fn good_rows_are_settled() {
    let rows = [(1, 1, Kind::Good), (1, 2, Kind::Good), (2, 3, Kind::Good)];
    all_promises_hold("good rows", rows);
}

#[test]
fn a_duplicate_replaces_the_row_that_a_pod_works_on() {
    let rows = [
        (1, 1, Kind::Good),
        (2, 2, Kind::Invisible),
        (1, 1, Kind::Good),
    ];
    all_promises_hold("duplicate", rows);
}

#[test]
fn a_brake_that_allows_one_row_delays_the_others() {
    let rows = [
        (1, 1, Kind::Invisible),
        (1, 2, Kind::Invisible),
        (2, 3, Kind::Unreadable),
    ];
    all_promises_hold("brake", rows);
}

#[test]
fn a_refused_message_in_front_of_good_rows_is_marked() {
    let rows = [
        (1, 1, Kind::Refused),
        (1, 2, Kind::Good),
        (2, 3, Kind::Good),
    ];
    all_promises_hold("refused", rows);
}
