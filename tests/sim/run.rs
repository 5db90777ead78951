//! One run: the pods and the world of a plan, from the first row until all rows are settled, in virtual time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandbox::{Delius, Timings};
use tokio::time::{Instant, advance, sleep, sleep_until};

use crate::log::{Entry, What};
use crate::other_pod;
use crate::planted::Bug;
use crate::pod::Process;
use crate::rows::RowInWorld;
use crate::seed::{ClockFault, Ending, Kind, Plan, Restart, RowPlan, SERVE_AFTER_SECONDS};
use crate::world::World;

/// A process without calls is killed after this time, even if it should make more steps.
const LONGEST_LAST_STEPS: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(2);

/// A finished run.
pub struct Run {
    pub plan: Arc<Plan>,
    pub log: Vec<Entry>,
    pub rows: BTreeMap<i64, RowInWorld>,
    pub lasted: Duration,
}

enum Action {
    Insert(RowPlan),
    Restart(Restart),
    Clock(ClockFault),
    EndTrouble,
}

/// Runs a plan, with a planted bug if one is given.
pub fn run(plan: Plan, bug: Option<Bug>) -> Run {
    fastrand::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let plan = Arc::new(plan);
    runtime.block_on(async {
        let world = Arc::new(World::new(plan.clone(), empty_delius(&plan)));
        play(&world, bug).await;
        world.assert_consistent();
        let lasted = world.now();
        let mut state = world.state();
        Run {
            plan,
            log: std::mem::take(&mut state.log),
            rows: std::mem::take(&mut state.rows),
            lasted,
        }
    })
}

/// The tables are created once per thread, since that takes longer than many runs.
fn empty_delius(plan: &Plan) -> Delius {
    thread_local! {
        static DELIUS: RefCell<Option<Delius>> = const { RefCell::new(None) };
    }
    let timings = Timings {
        serve_after_seconds: SERVE_AFTER_SECONDS,
        lock_expiry_seconds: i64::try_from(plan.lock_expiry.as_secs()).unwrap(),
    };
    DELIUS.with_borrow_mut(|delius| {
        let delius = delius.get_or_insert_with(|| Delius::in_memory(timings).unwrap());
        delius.set_timings(timings);
        let reset =
            "DELETE FROM OFFENDER_DELTA; DELETE FROM sqlite_sequence WHERE name = 'OFFENDER_DELTA'";
        delius.execute(reset).unwrap();
        delius.clone()
    })
}

fn timetable(plan: &Plan) -> Vec<(Duration, Action)> {
    let rows = plan
        .rows
        .iter()
        .map(|row| (row.insert_at, Action::Insert(row.clone())));
    let restarts = plan
        .restarts
        .iter()
        .map(|&restart| (restart.at, Action::Restart(restart)));
    let clocks = plan
        .clock_faults
        .iter()
        .map(|&(at, fault)| (at, Action::Clock(fault)));
    let end = (plan.trouble_ends, Action::EndTrouble);
    let mut timetable: Vec<_> = rows.chain(restarts).chain(clocks).chain([end]).collect();
    timetable.sort_by_key(|action| action.0);
    timetable
}

async fn play(world: &Arc<World>, bug: Option<Bug>) {
    let plan = world.plan.clone();
    let started = Instant::now();
    let replicas = Replicas {
        world: world.clone(),
        bug,
        processes: Arc::new(Mutex::new(Vec::new())),
        started: Arc::new(Mutex::new(0)),
    };
    for _ in 0..plan.pods {
        let process = replicas.start();
        replicas.processes.lock().unwrap().push(process);
    }
    for (at, action) in timetable(&plan) {
        sleep_until(started + at).await;
        match action {
            Action::Insert(row) => world.insert(&row),
            Action::Restart(restart) => drop(tokio::spawn(replicas.clone().restart(restart))),
            Action::Clock(ClockFault::Jump(seconds)) => world.jump(seconds),
            Action::Clock(ClockFault::Stall(length)) => {
                world.note(0, What::Stalled(length));
                advance(length).await;
            }
            Action::Clock(ClockFault::StallOfAllButOne(length)) => {
                world.note(0, What::Stalled(length));
                other_pod::drain(world, replicas.next_number(), length);
                advance(length).await;
            }
            Action::EndTrouble => world.end_trouble(),
        }
    }
    let ended = world.now();
    let at_least = match plan.kind {
        // Long enough to see that rows that can never be settled are retried.
        Kind::BadRows => plan.lock_expiry + Duration::from_secs(90),
        _ => Duration::ZERO,
    };
    loop {
        sleep(LOOK).await;
        let since = world.now().saturating_sub(ended);
        let settled = world.state().is_settled(&plan) && since >= at_least;
        if settled || since > patience(&plan) {
            break;
        }
    }
    replicas.stop_all().await;
}

/// How long a run may last after the troubles, including the brake.
pub fn patience(plan: &Plan) -> Duration {
    let rounds = 5 + plan.rows.len() / plan.settings.brake_limit;
    let round = plan.lock_expiry + plan.settings.brake_window + Duration::from_mins(2);
    round * u32::try_from(rounds).unwrap()
}

/// The replicas of the deployment. Each is missing for a while after its process ended.
#[derive(Clone)]
struct Replicas {
    world: Arc<World>,
    bug: Option<Bug>,
    processes: Arc<Mutex<Vec<Arc<Process>>>>,
    started: Arc<Mutex<usize>>,
}

impl Replicas {
    fn start(&self) -> Arc<Process> {
        Process::start(self.next_number(), &self.world, self.bug)
    }

    fn next_number(&self) -> usize {
        let mut started = self.started.lock().unwrap();
        *started += 1;
        *started
    }

    fn process(&self, replica: usize) -> Arc<Process> {
        self.processes.lock().unwrap()[replica].clone()
    }

    async fn restart(self, restart: Restart) {
        let process = self.process(restart.replica);
        // It is already ending.
        if process.is_ending() {
            return;
        }
        match restart.how {
            Ending::Sigterm => process.sigterm(),
            Ending::Kill { steps } => {
                process.kill_after(steps);
                let asked = Instant::now();
                while !process.has_ended() && asked.elapsed() < LONGEST_LAST_STEPS {
                    sleep(LOOK).await;
                }
                process.kill_after(0);
            }
        }
        while !process.has_ended() {
            sleep(LOOK).await;
        }
        sleep(restart.pause).await;
        let process = self.start();
        self.processes.lock().unwrap()[restart.replica] = process;
    }

    async fn stop_all(&self) {
        let processes = self.processes.lock().unwrap().clone();
        for process in &processes {
            if !process.has_ended() {
                process.sigterm();
            }
        }
        while !processes.iter().all(|process| process.has_ended()) {
            sleep(LOOK).await;
        }
    }
}
