//! A pod: the service's own parts, and between them the steps of its rows in the order of `src/poller/row.rs` and `retry.rs`.

use std::hash::{Hash, Hasher};

use futures_util::FutureExt;
use probation_offender_events::decision::{Known, Next, next};
use probation_offender_events::offender_update::{ClaimedRow, OffenderId};
use probation_offender_events::outcome::{Reason, RedeliveryCause, Step};
use probation_offender_events::poller::brake::{Brake, BrakeAnswer};
use probation_offender_events::poller::lanes::{InLane, Lanes};
use probation_offender_events::poller::lease::Lease;
use probation_offender_events::poller::places::{End, Places, Purpose, Standing};
use probation_offender_events::poller::published::PublishedRows;
use probation_offender_events::poller::retry::{After, Attempts, LONGEST_WAIT_DIVISOR};
use probation_offender_events::ports::{CallError, CallErrorKind};
use tokio::time::Instant;

use crate::world::{Fate, LEASE, LOCK, Status, TIMEOUT, World};

#[derive(Clone)]
pub struct Pod {
    places: Places,
    brake: Brake,
    published: PublishedRows,
    /// What has happened in the lane of each offender since it was empty: rows join (`None`), or leave. `Lanes` is not a value,
    /// so it is made again from this.
    lanes: [Vec<Option<usize>>; 2],
    pub claim: Option<Claim>,
    /// In the order of the claims.
    pub tasks: Vec<Task>,
    pub is_stopping: bool,
    /// The rows of which it has all message ids, and when it marked one: for the promises only.
    has_ids: [bool; 3],
    marked: Option<Instant>,
}

/// A claim under way.
#[derive(Clone, Copy, Hash)]
pub struct Claim {
    pub sent: Instant,
    pub row: usize,
    /// As it was read.
    pub read: Status,
    /// Once it is locked: whether it was claimed before.
    pub locked: Option<bool>,
}

/// A row that the pod holds.
#[derive(Clone, Hash)]
pub struct Task {
    pub row: usize,
    pub comes_back: bool,
    pub lease: Lease,
    pub standing: Standing,
    /// Its lane and its number there, until it leaves.
    pub lane: Option<(usize, usize)>,
    pub step: Step,
    attempts: Attempts,
    /// The end of the call under way. Without one, the row waits for its turn or for the next attempt.
    pub until: Option<Instant>,
    rest: Vec<usize>,
    /// Whether a publish had no answer, and whether this claim has shown a reason to mark the row: for the promises only.
    no_answer: bool,
    has_reason: bool,
}

/// `Err` is the broken promise.
pub type Kept = Result<(), &'static str>;

pub fn promise(is_kept: bool, what: &'static str) -> Kept {
    is_kept.then_some(()).ok_or(what)
}

impl Pod {
    pub fn new(world: &World) -> Self {
        let settings = &world.setup.settings;
        let longest = LOCK / LONGEST_WAIT_DIVISOR;
        Self {
            places: Places::new(
                settings.max_in_flight,
                settings.held_limit,
                longest,
                world.now,
            ),
            brake: Brake::new(settings.brake_limit, settings.brake_window),
            published: PublishedRows::with_capacity(3),
            lanes: [Vec::new(), Vec::new()],
            claim: None,
            tasks: Vec::new(),
            is_stopping: false,
            has_ids: [false; 3],
            marked: None,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.claim.is_none() && self.tasks.is_empty()
    }

    /// Whether a claim may be sent now.
    pub fn may_claim(&self, now: Instant) -> bool {
        let may_claim = self.claim.is_none() && !self.is_stopping;
        may_claim && self.places.clone().want(Purpose::Claim, now).is_ok()
    }

    /// Whether the row may go on now: if it waits, its turn has come and there is a place.
    pub fn may_go_on(&self, task: &Task, now: Instant) -> bool {
        let has_place = || self.places.clone().want(Purpose::Turn, now).is_ok();
        task.standing != Standing::Waiting || self.has_turn(task) && has_place()
    }

    /// When the clock of the places lets a row go on.
    pub fn next_tick(&self, now: Instant) -> Option<Instant> {
        let mut tasks = self.tasks.iter();
        let waiting = tasks.find(|task| task.standing == Standing::Waiting);
        let purpose = waiting.map_or(Purpose::Claim, |_| Purpose::Turn);
        self.places.clone().want(purpose, now).err().flatten()
    }

    /// Whether the row's turn has come.
    fn has_turn(&self, task: &Task) -> bool {
        let Some((lane, number)) = task.lane else {
            return true;
        };
        let (lanes, mut rows) = (Lanes::default(), Vec::<Option<InLane>>::new());
        for event in &self.lanes[lane] {
            match event {
                None => rows.push(Some(lanes.join(OffenderId(0)))),
                Some(leaves) => rows[*leaves] = None,
            }
        }
        let row = rows[number].as_mut();
        row.is_some_and(|row| row.turn().now_or_never().is_some())
    }

    /// How many of the allowed failures it uses up if the row's call ends like this. A call that has lasted too long uses up no
    /// more.
    pub fn cost(&self, index: usize, fate: Fate, now: Instant) -> u8 {
        let is_late = self.tasks[index].until.is_some_and(|until| until <= now);
        let is_given_up = is_late && matches!(fate, Fate::AnswerLost | Fate::Vanished);
        u8::from(fate != Fate::Done && !is_given_up)
    }

    /// Moves a claim on: it is sent and reads, locks what it has read, or is answered.
    pub fn claim(&mut self, world: &mut World, fate: Fate) -> Kept {
        let read = |world: &World| world.oldest().map(|row| (row, world.table[row]));
        let claim = self.claim.take();
        let (sent, version) = match claim {
            _ if fate == Fate::Failed => (world.now, None),
            Some(Claim {
                row,
                sent,
                locked: Some(comes_back),
                ..
            }) => {
                let lease = Lease::from_claim(sent, world.setup.settings.lock_expiry);
                return self.hold(world, row, lease, comes_back);
            }
            Some(claim) => match world.lock(claim.row, claim.read) {
                None => (claim.sent, read(world)),
                locked => {
                    self.claim = Some(Claim { locked, ..claim });
                    return Ok(());
                }
            },
            None => {
                let has_place = self.places.want(Purpose::Claim, world.now);
                promise(has_place.is_ok(), "a place is there")?;
                (world.now, read(world))
            }
        };
        self.claim = version.map(|(row, read)| Claim {
            sent,
            row,
            read,
            locked: None,
        });
        if self.claim.is_none() {
            self.places.give_back();
        }
        Ok(())
    }

    /// A claim has brought a row. It joins its lane, and starts unless it is behind another.
    fn hold(&mut self, world: &mut World, row: usize, lease: Lease, comes_back: bool) -> Kept {
        self.places.hold(comes_back);
        let claimed = &world.setup.rows[row].claimed[0];
        let mut task = Task {
            row,
            comes_back,
            lease,
            standing: Standing::Running,
            lane: None,
            step: Step::Identifiers,
            attempts: Attempts::at(Step::Identifiers),
            until: None,
            rest: Vec::new(),
            no_answer: false,
            has_reason: matches!(claimed, ClaimedRow::Unreadable(_)),
        };
        if let ClaimedRow::Update(update) = claimed
            && !self.has_published(world, row, lease)
        {
            let lane = usize::from(update.offender_id == OffenderId(2));
            let joined = self.lanes[lane].iter().filter(|event| event.is_none());
            task.lane = Some((lane, joined.count()));
            self.lanes[lane].push(None);
            if !self.has_turn(&task) {
                self.places.give_back();
                task.standing = Standing::Waiting;
            }
        }
        let is_behind = task.standing == Standing::Waiting;
        self.tasks.push(task);
        let index = self.tasks.len() - 1;
        if is_behind {
            Ok(())
        } else {
            self.start(world, index)
        }
    }

    fn has_published(&self, world: &World, row: usize, lease: Lease) -> bool {
        world.setup.rows[row]
            .change
            .is_some_and(|change| self.published.contains(change, lease.claimed_at()))
    }

    fn start(&mut self, world: &mut World, index: usize) -> Kept {
        let Task { row, lease, .. } = self.tasks[index];
        let known = if self.has_published(world, row, lease) {
            Known::Published
        } else {
            Known::Claimed
        };
        self.go_on(world, index, &known)
    }

    /// Moves a row on: its turn has come, its next attempt is sent, or its call is answered.
    pub fn row(&mut self, world: &mut World, index: usize, fate: Fate) -> Kept {
        let task = &mut self.tasks[index];
        if task.standing == Standing::Waiting {
            task.standing = Standing::Running;
            let has_place = self.places.want(Purpose::Turn, world.now);
            promise(has_place.is_ok(), "a place is there")?;
            return self.start(world, index);
        }
        if task.until.take().is_none() {
            return self.attempt(world, index);
        }
        let (row, step) = (task.row, task.step);
        task.no_answer |= matches!(fate, Fate::AnswerLost | Fate::Vanished);
        let answer = world.call((row, step), &mut task.rest, fate);
        let is_refused = step == Step::Publish && world.setup.refuses(row, &task.rest, fate);
        task.has_reason |= is_refused || matches!(answer, Ok(Known::NotFound));
        let change = world.setup.rows[row].change;
        match (answer, step) {
            (Err(kind), _) => return self.failed(world, index, kind),
            (Ok(known), Step::Identifiers) => return self.go_on(world, index, &known),
            (Ok(known), Step::Publish) => {
                world.counted[row] |= task.lease.remaining(world.now).is_zero();
                self.has_ids[row] = true;
                self.published.remember(change.unwrap());
                return self.go_on(world, index, &known);
            }
            (Ok(_), Step::Delete) => self.published.deleted(change.unwrap(), world.now),
            (Ok(_), Step::MarkAsFailed) => {}
        }
        self.end(index, End::Settled);
        Ok(())
    }

    fn failed(&mut self, world: &mut World, index: usize, kind: CallErrorKind) -> Kept {
        let (now, settings) = (world.now, &world.setup.settings);
        let task = &mut self.tasks[index];
        if kind != CallErrorKind::Refused {
            if task.standing == Standing::Running {
                self.places.lose(now);
            }
            task.standing = Standing::InTrouble;
        }
        let left = task.lease.remaining(now);
        let error = CallError::new(kind, "");
        match task.attempts.failed(&error, left, false, 1.0, settings) {
            After::Wait(_) => {}
            After::Leave(Reason::Refused) => return self.go_on(world, index, &Known::Refused),
            After::Leave(_) => self.end(index, End::Left),
        }
        Ok(())
    }

    /// Does what the rules ask for, now that this is known of the row.
    fn go_on(&mut self, world: &mut World, index: usize, known: &Known) -> Kept {
        let now = world.now;
        let task = &mut self.tasks[index];
        let claimed = &world.setup.rows[task.row].claimed[usize::from(task.comes_back)];
        let step = match next(claimed, known, &[]) {
            Next::Identify => Step::Identifiers,
            Next::Publish(events) => {
                task.rest = (0..events.len()).collect();
                Step::Publish
            }
            Next::Delete => Step::Delete,
            Next::Mark if self.brake.ask(now) == BrakeAnswer::Allowed => Step::MarkAsFailed,
            Next::Mark | Next::Leave(_) => {
                self.end(index, End::Left);
                return Ok(());
            }
        };
        (task.step, task.attempts) = (step, Attempts::at(step));
        if matches!(step, Step::Delete | Step::MarkAsFailed) {
            self.leave_lane(index);
        }
        if step == Step::MarkAsFailed {
            let last = self.marked.replace(now);
            let is_alone = last.is_none_or(|last| last + LOCK <= now);
            promise(is_alone, "8: the brake allows one row in its window")?;
        }
        self.attempt(world, index)
    }

    /// Sends the next attempt, if the lease allows it.
    fn attempt(&mut self, world: &mut World, index: usize) -> Kept {
        let (now, settings) = (world.now, &world.setup.settings);
        let task = &mut self.tasks[index];
        let limit = task.attempts.limit(task.lease.remaining(now), settings);
        task.until = limit.map(|limit| now + limit);
        if task.until.is_none() {
            self.end(index, End::Left);
            return Ok(());
        }
        let (task, row) = (&self.tasks[index], self.tasks[index].row);
        match task.step {
            Step::Identifiers => Ok(()),
            Step::Delete => {
                let is_on_topic = world.on_topic[row] == (1 << world.setup.rows[row].events) - 1;
                promise(is_on_topic, "1: every event of a deleted row is published")
            }
            Step::MarkAsFailed => {
                let has_reason = task.comes_back && task.has_reason;
                promise(has_reason, "2: a row is marked on its return, for a reason")
            }
            Step::Publish => {
                let offender = |task: &Task| world.setup.rows[task.row].offender;
                let mut before = self.tasks[..index].iter();
                let is_first =
                    before.all(|other| other.lane.is_none() || offender(other) != offender(task));
                promise(is_first, "9: an offender's rows are published in order")?;
                let latest = task.lease.claimed_at() + LEASE - TIMEOUT;
                promise(now <= latest, "5: a publish has enough of the lease")?;
                promise(!self.has_ids[row], "6: a published row is only deleted")?;
                let cause = task.attempts.redelivery(task.comes_back);
                let is_true = cause != Some(RedeliveryCause::AnswerLost) || task.no_answer;
                promise(is_true, "7: no redelivery is counted without its cause")?;
                world.counted[row] |= cause.is_some();
                Ok(())
            }
        }
    }

    fn leave_lane(&mut self, index: usize) {
        let task = &mut self.tasks[index];
        if let Some((lane, number)) = task.lane.take() {
            let lane = &mut self.lanes[lane];
            lane.push(Some(number));
            if lane.iter().flatten().count() * 2 == lane.len() {
                lane.clear();
            }
        }
    }

    fn end(&mut self, index: usize, end: End) {
        self.leave_lane(index);
        let task = self.tasks.remove(index);
        self.places.end(task.standing, end);
    }

    /// What is true of the places at any time, and of an idle pod.
    pub fn check(&self, world: &World) -> Kept {
        let standings = self.tasks.iter().map(|task| task.standing);
        let count = |wanted| {
            standings
                .clone()
                .filter(|&standing| standing == wanted)
                .count()
        };
        let (lost, in_trouble) = (self.places.lost(), count(Standing::InTrouble));
        let running = count(Standing::Running) + usize::from(self.claim.is_some());
        let total = world.setup.settings.max_in_flight;
        let is_right = self.places.in_trouble() == in_trouble && lost <= in_trouble;
        let is_right = is_right && running + lost <= total;
        promise(is_right, "places are counted right")?;
        let mut places = self.places.clone();
        let has_all = (0..total).all(|_| places.want(Purpose::Turn, world.now).is_ok());
        let is_clean = has_all && self.lanes.iter().all(Vec::is_empty);
        promise(
            is_clean || !self.is_idle(),
            "an idle pod has all its places",
        )
    }

    /// Of the memory of published rows, only the answers that can still matter are hashed.
    pub fn hash(&self, world: &World, hasher: &mut impl Hasher) {
        (&self.places, &self.brake, &self.lanes, &self.tasks).hash(hasher);
        (self.claim, self.is_stopping, self.has_ids, self.marked).hash(hasher);
        let under_way = self.claim.map(|claim| claim.sent);
        let under_way = under_way.into_iter().chain([world.now]);
        let leases = under_way.map(|at| Lease::from_claim(at, LOCK));
        for lease in leases.chain(self.tasks.iter().map(|task| task.lease)) {
            let published = [0, 1, 2].map(|row| self.has_published(world, row, lease));
            published.hash(hasher);
        }
    }
}
