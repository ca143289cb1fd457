//! `make profile`: how many instructions a record takes, and where they go.
//!
//! The release binary works on one set under valgrind's callgrind, which counts every instruction that is executed, so that two runs
//! can be compared to the thousandth however busy the machine is. It counts from when the program waits for messages: its start is left out. What valgrind does not see is the kernel, and it shows the program a processor without SHA instructions; so SHA-256, which is then
//! done in software, is also named alone. Where perf may be used, it samples a second run, outside of valgrind: that has
//! the kernel and the real hash in it.
//!
//! Everything is kept in `target/profile`: the summary, which is also printed, and the tools' own files for a closer look.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use crate::data::Store;
use crate::measure::{self, start, start_under, stop, watch};
use crate::process::{folder, machine};
use crate::profiled::{Cost, Costs, thousands};
use crate::sets::{self, Repos, Set};
use crate::stage::{Running, Stage};
use crate::support::child;

/// Lines of each table.
const LINES: usize = 25;
/// The set that is profiled where PROFILE_SET names none.
const DEFAULT: &str = "100k";
/// By then perf watches the process.
const ATTACHED: Duration = Duration::from_millis(500);

/// Profiles one set; prints where the summary is.
pub fn main() -> ExitCode {
    let name = env::var("PROFILE_SET").unwrap_or_default();
    let name = if name.is_empty() { DEFAULT } else { &name };
    let found = sets::all().into_iter().find(|set| set.name == name);
    let Some(set) = found.filter(|set| set.repos != Repos::None) else {
        eprintln!("PROFILE_SET: no set of repos is called {name}; see tests/bench/sets.rs");
        return ExitCode::from(2);
    };
    for tool in ["valgrind", "callgrind_annotate", "callgrind_control"] {
        if let Err(e) = answers(tool) {
            eprintln!(
                "{tool} is needed to count instructions, and cannot be run ({e}): please install valgrind and try again"
            );
            return ExitCode::FAILURE;
        }
    }
    let folder = folder().with_file_name("profile");
    fs::create_dir_all(&folder).expect("a folder for the profile");
    let bodies = Store::open().bodies(set.repos);
    let mut stage = Stage::start(&set);
    let of_each = (0..stage.dids.len()).map(|number| &bodies[number % bodies.len()]);
    let records: usize = of_each.map(|body| body.records).sum();

    let mut text = format!(
        "{}\n{}\n{}: repos {}, records {}\n",
        machine(),
        measure::binary().display(),
        set.name,
        stage.dids.len(),
        thousands(records as u64),
    );
    text += &callgrind(&set, &mut stage, &folder, records as u64);
    text += &match perf(&set, &mut stage, &folder) {
        Ok(report) => report,
        Err(why) => format!("\nNo times of functions: {why}.\n"),
    };
    let summary = folder.join(format!("{}.txt", set.name));
    fs::write(&summary, &text).expect("the summary is written");
    println!("{text}\n{}", summary.display());
    ExitCode::SUCCESS
}

/// Whether a tool is there.
fn answers(tool: &str) -> std::io::Result<()> {
    let mut command = Command::new(tool);
    command.arg("--version").stdin(Stdio::null());
    command.output().map(drop)
}

/// The output of a tool that must not fail.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.expect("the tool is there");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Counts the instructions of one run.
fn callgrind(set: &Set, stage: &mut Stage, folder: &Path, records: u64) -> String {
    let file = |end: &str| folder.join(format!("{}.{end}", set.name));
    let (out, log) = (file("callgrind"), file("valgrind.log"));
    let option = |name: &str, path: &PathBuf| format!("--{name}={}", path.display());
    let tool = [
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        "--instr-atstart=no".to_owned(),
        option("callgrind-out-file", &out),
        // Not among the program's own lines.
        option("log-file", &log),
    ];
    stage.clear();
    let mut program = start_under(&tool, set, stage);
    measure::wait_until_ready(stage);
    let pid = program.pid().to_string();
    output(Command::new("callgrind_control").args(["--instr=on", &pid]));
    measure::enqueue(stage);
    watch(set, stage, &mut program);
    stop(program);

    let annotate = |more: &[&str]| {
        let mut command = Command::new("callgrind_annotate");
        command.args(["--auto=no", "--threshold=100"]).args(more);
        output(command.arg(&out))
    };
    let (own, inclusive) = (annotate(&[]), annotate(&["--inclusive=yes"]));
    fs::write(file("annotated.txt"), &own).expect("the annotation is written");
    let (own, inclusive) = (Costs::read(&own), Costs::read(&inclusive));
    let hashing = own.of(is_hashing);
    let mut text = format!(
        "\nInstructions per record: {}, of which {} are SHA-256 in software\n({} in all; from the message to the acknowledgement, all threads, without the kernel)\n",
        thousands(own.total / records),
        thousands(hashing / records),
        thousands(own.total),
    );
    let functions = own.by_function();
    text += &table("by function, itself", &functions, own.total, records);
    let with_callees = inclusive.with_callees();
    let title = "by function, with all that it calls";
    text += &table(title, &with_callees, own.total, records);
    let title = "by source file, inlined code where it stands, without SHA-256";
    let files = own.by_file(|function| !is_hashing(function));
    text += &table(title, &files, own.total - hashing, records);
    text
}

/// Whether a function is SHA-256 itself.
fn is_hashing(function: &str) -> bool {
    function.starts_with("sha2::")
}

fn table(title: &str, costs: &[Cost], total: u64, records: u64) -> String {
    let mut text = format!("\n{:>12} {:>7}  {title}\n", "per record", "share");
    for cost in costs.iter().take(LINES) {
        let per_record = cost.instructions as f64 / records as f64;
        let share = 100.0 * cost.instructions as f64 / total as f64;
        let _ = writeln!(text, "{per_record:>12.1} {share:>6.2}%  {}", cost.name);
    }
    text
}

/// Samples one run, outside of valgrind.
///
/// # Errors
/// Why that cannot be done here.
fn perf(set: &Set, stage: &mut Stage, folder: &Path) -> Result<String, String> {
    answers("perf").map_err(|e| format!("perf cannot be run ({e})"))?;
    let data = folder.join(format!("{}.perf", set.name));
    // An old one would be taken for that of this run.
    let _ = fs::remove_file(&data);
    stage.clear();
    let mut program = start(set, stage);
    measure::wait_until_ready(stage);
    let mut command = Command::new("perf");
    command
        .args(["record", "--quiet", "--freq=5000", "--pid"])
        .arg(program.pid().to_string())
        .arg("--output")
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut recorder = Running(child::spawn(command).map_err(|e| e.to_string())?);
    thread::sleep(ATTACHED);
    measure::enqueue(stage);
    watch(set, stage, &mut program);
    // It ends with the process that it watches.
    stop(program);
    let _ = recorder.0.wait();
    let mut said = String::new();
    if let Some(mut pipe) = recorder.0.stderr.take() {
        let _ = pipe.read_to_string(&mut said);
    }
    if !data.is_file() {
        let said = said.lines().map(str::trim).find(|line| !line.is_empty());
        return Err(format!(
            "perf may not sample here ({})",
            said.unwrap_or("it does not say why")
        ));
    }
    let mut report = Command::new("perf");
    report.args(["report", "--stdio", "--no-children", "--sort=dso,symbol"]);
    report.args(["--percent-limit=0.5", "--input"]).arg(&data);
    let report = output(&mut report);
    let lines = report
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut text = "\n  time   by function, itself, the kernel included (perf)\n".to_owned();
    for line in lines.take(LINES) {
        // Behind the symbol come columns that have nothing to say here.
        let _ = writeln!(text, "{}", line.trim_end_matches([' ', '-']));
    }
    Ok(text)
}
