//! What the program is run and watched with, as it prints it itself: the systemd unit, the Grafana dashboard and the alert rules.
//!
//! Where systemd-analyze and promtool are installed, they judge as well; where not, that is said.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;
use support::backfiller::binary;
use support::ops::{self, Ops};
use support::wait::eventually;

/// The most that `systemd-analyze security` may say: 0 is the least exposed, 10 the most; below 2 counts as well closed.
const MOST_EXPOSED: f64 = 2.0;

fn run(args: &[&str]) -> Output {
    Command::new(binary())
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the backfiller binary starts")
}

/// What it prints when it ends well.
#[track_caller]
fn answer(args: &[&str]) -> String {
    let output = run(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The unit with these options, for a program at a usual place.
#[track_caller]
fn unit(options: &[&str]) -> BTreeMap<String, Vec<(String, String)>> {
    let exec = ["systemd-unit", "--exec-path", "/usr/local/bin/backfiller"];
    sections(&answer(&[&exec, options].concat()))
}

/// The keys and values of each section, as systemd reads them.
#[track_caller]
fn sections(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut sections = BTreeMap::<String, Vec<_>>::new();
    let mut current = None;
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            current = Some(name.to_owned());
            sections.entry(name.to_owned()).or_default();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
        assert!(key.chars().all(char::is_alphanumeric), "{line:?}");
        let section = current.as_ref().expect("a section before the first key");
        let values = sections.get_mut(section).expect("it was entered");
        values.push((key.to_owned(), value.to_owned()));
    }
    sections
}

/// All values of a key in `[Service]`.
fn values<'a>(unit: &'a BTreeMap<String, Vec<(String, String)>>, key: &str) -> Vec<&'a str> {
    let service = unit["Service"].iter();
    service
        .filter(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
        .collect()
}

#[test]
fn the_unit_starts_the_program_with_few_rights() {
    let unit = unit(&[]);
    assert_eq!(
        unit.keys().collect::<Vec<_>>(),
        ["Install", "Service", "Unit"]
    );
    assert_eq!(
        values(&unit, "ExecStart"),
        ["/usr/local/bin/backfiller run"]
    );
    // The instances 1 of two machines are two consumers.
    assert!(values(&unit, "Environment").contains(&"BACKFILLER_CONSUMER=backfiller_%H_%i"));
    for (key, value) in [
        ("DynamicUser", "yes"),
        ("PrivateTmp", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("NoNewPrivileges", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestartPreventExitStatus", "2 4"),
    ] {
        assert_eq!(values(&unit, key), [value], "{key}");
    }
    let families = values(&unit, "RestrictAddressFamilies");
    for family in ["AF_INET", "AF_INET6", "AF_UNIX"] {
        assert!(
            families[0].split(' ').any(|word| word == family),
            "{family}"
        );
    }
    assert!(values(&unit, "SystemCallFilter").contains(&"@system-service"));
    // Secrets are in files of root's, not in the unit, which everybody may read.
    assert_eq!(
        values(&unit, "EnvironmentFile"),
        ["-/etc/backfiller/common.env", "-/etc/backfiller/%i.env"]
    );
    let files = values(&unit, "LimitNOFILE")[0]
        .parse::<u64>()
        .expect("a number");
    assert!(files >= 1024 * 6, "{files} for 1024 workers");
}

#[test]
fn its_memory_follows_the_budget_and_the_workers() {
    let most = |options: &[&str]| {
        let unit = unit(options);
        let value = values(&unit, "MemoryMax")[0];
        let mib = value.strip_suffix('M').expect("mebibytes");
        mib.parse::<u64>().expect("a number")
    };
    let least = most(&[]);
    assert!(least >= 512 + 2 * 25, "{least}");
    assert_eq!(most(&["--memory-budget-mb", "2048"]), least + 2048 - 512);
    // Two chunks of the largest kind and a megabyte, as the README says.
    assert_eq!(most(&["--concurrency", "66"]), least + 64 * 25);
    let unit = unit(&["--concurrency", "66", "--memory-budget-mb", "2048"]);
    let environment = values(&unit, "Environment");
    for setting in [
        "BACKFILLER_CONCURRENCY=66",
        "BACKFILLER_MEMORY_BUDGET_MB=2048",
    ] {
        assert!(environment.contains(&setting), "{setting}: {environment:?}");
    }
}

#[test]
fn it_is_killed_only_after_the_drain() {
    for (options, drain) in [(&[][..], 60), (&["--shutdown-timeout-secs", "600"], 600)] {
        let unit = unit(options);
        let setting = format!("BACKFILLER_SHUTDOWN_TIMEOUT_SECS={drain}");
        assert!(values(&unit, "Environment").contains(&setting.as_str()));
        let stop = values(&unit, "TimeoutStopSec")[0]
            .parse::<u64>()
            .expect("seconds");
        assert!(stop >= drain + 15, "{stop} for {drain}");
    }
}

#[test]
fn the_settings_of_a_unit_are_checked() {
    for (args, said) in [
        (
            ["--concurrency", "0"],
            "BACKFILLER_CONCURRENCY=0 is not accepted",
        ),
        (
            ["--memory-budget-mb", "x"],
            "BACKFILLER_MEMORY_BUDGET_MB=x is not accepted",
        ),
        (
            ["--shutdown-timeout-secs", "-"],
            "BACKFILLER_SHUTDOWN_TIMEOUT_SECS=- is not accepted",
        ),
        (
            ["--exec-path", "backfiller"],
            "--exec-path \"backfiller\" is not accepted",
        ),
        (
            ["--exec-path", "/opt/a b"],
            "--exec-path \"/opt/a b\" is not accepted",
        ),
        (
            ["--exec-path", "/opt/%n"],
            "--exec-path \"/opt/%n\" is not accepted",
        ),
        (
            ["--exec-path", "/opt/a\n[Service]"],
            "--exec-path \"/opt/a\\n[Service]\" is not accepted",
        ),
    ] {
        let output = run(&[&["systemd-unit"][..], &args].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            errors.starts_with(&format!("backfiller: {said}")),
            "{errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(output.stdout.is_empty());
    }
    // Where the unit could not see the program, that is said beside it.
    let output = run(&["systemd-unit", "--exec-path", "/home/me/backfiller"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0));
    assert!(errors.contains("not allowed to see /home/"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_closed() {
    if !installed("systemd-analyze", &["--version"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    // An instance of it, and a program that is there.
    let file = folder.path().join("backfiller@1.service");
    let text = answer(&["systemd-unit", "--exec-path", "/bin/sh"]);
    fs::write(&file, text).expect("the unit can be written");
    let verify = tool("systemd-analyze", &["verify"], &file);
    let said = String::from_utf8_lossy(&verify.stderr);
    assert_eq!(said, "", "systemd-analyze verify");
    assert!(verify.status.success());
    let security = tool(
        "systemd-analyze",
        &["security", "--offline=true", "--no-pager"],
        &file,
    );
    let said = String::from_utf8_lossy(&security.stdout);
    let level = said
        .lines()
        .find(|line| line.contains("Overall exposure level"));
    let level = level.unwrap_or_else(|| panic!("no level in {said}"));
    let number = level
        .split(": ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let number = number.expect("a number").parse::<f64>().expect("a number");
    assert!(number <= MOST_EXPOSED, "{level}");
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard: Value = serde_json::from_str(&answer(&["grafana-dashboard"])).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64().expect("a number") >= 36);
    for key in ["title", "uid"] {
        assert!(
            dashboard[key].as_str().is_some_and(|text| !text.is_empty()),
            "{key}"
        );
    }
    // Grafana gives it a number of its own.
    assert_eq!(dashboard["id"], Value::Null);
    let variables = dashboard["templating"]["list"]
        .as_array()
        .expect("variables");
    let names = variables
        .iter()
        .map(|variable| variable["name"].as_str().expect("a name"));
    assert_eq!(names.collect::<Vec<_>>(), ["datasource", "job", "instance"]);
    assert_eq!(variables[0]["type"], "datasource");
    assert_eq!(variables[0]["query"], "prometheus");

    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(
            ids.insert(panel["id"].as_u64().expect("a number")),
            "{title}: its id is another's"
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(place("x") + place("w") <= 24, "{title} is beyond the edge");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies over another");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{title}"
        );
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title} has no unit"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let query = target["expr"].as_str().expect("a query");
            assert!(
                query.contains("instance=~\"$instance\""),
                "{title}: {query}"
            );
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
        assert!(
            panel["type"] != "timeseries" || one_kind_on_an_axis(panel),
            "{title}: rates and numbers on one axis"
        );
    }
    assert!(ids.len() > 20, "{} panels", ids.len());
}

/// Whether all queries on the left axis are rates, or none: what is on the right one has a unit of its own there.
fn one_kind_on_an_axis(panel: &Value) -> bool {
    let overrides = panel["fieldConfig"]["overrides"].as_array();
    let overrides = overrides.expect("overrides");
    let on_the_right = |query: &Value| {
        let of_query = overrides.iter().find(|one| {
            one["matcher"]["id"] == "byFrameRefID" && one["matcher"]["options"] == query["refId"]
        });
        let set = |id: &str| {
            let mut properties = of_query?["properties"].as_array()?.iter();
            properties.find(|property| property["id"] == id)?["value"].as_str()
        };
        set("custom.axisPlacement") == Some("right") && set("unit").is_some()
    };
    let left = panel["targets"].as_array().expect("targets").iter();
    let kinds = left
        .filter(|query| !on_the_right(query))
        .map(|query| query["expr"].as_str().expect("a query").contains("rate("));
    kinds.collect::<BTreeSet<_>>().len() == 1
}

/// What an alert says.
struct Rule {
    name: String,
    wait: String,
    texts: BTreeMap<&'static str, String>,
}

fn rules() -> Vec<Rule> {
    let text = answer(&["alert-rules"]);
    let documents = Yaml::load_from_str(&text).expect("YAML");
    assert_eq!(documents.len(), 1);
    let groups = documents[0]["groups"].as_sequence().expect("groups");
    let text = |rule: &Yaml<'_>, key: &str| {
        let value = rule.as_mapping_get(key).and_then(|value| value.as_str());
        value
            .unwrap_or_else(|| panic!("no {key} in {rule:?}"))
            .to_owned()
    };
    let all = groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().expect("rules"));
    all.map(|rule| Rule {
        name: text(rule, "alert"),
        wait: text(rule, "for"),
        texts: [
            ("severity", text(&rule["labels"], "severity")),
            ("summary", text(&rule["annotations"], "summary")),
            ("description", text(&rule["annotations"], "description")),
            ("runbook", text(&rule["annotations"], "runbook")),
        ]
        .into(),
    })
    .collect()
}

#[test]
fn each_alert_says_what_it_means_and_where_to_read_on() {
    let rules = rules();
    let names = rules
        .iter()
        .map(|rule| rule.name.as_str())
        .collect::<BTreeSet<_>>();
    assert_eq!(names.len(), rules.len(), "two alerts of one name");
    for name in [
        "BackfillerDown",
        "BackfillerRestarting",
        "BackfillerNoProgress",
        "BackfillerRedisAway",
        "BackfillerDeadLettersRising",
        "BackfillerOutputFull",
        "BackfillerVerificationErrors",
        "BackfillerManyHostsCooling",
    ] {
        assert!(names.contains(name), "no {name} in {names:?}");
    }
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("the README");
    let sections = readme
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect::<Vec<_>>();
    for rule in &rules {
        let name = &rule.name;
        let (number, unit) = rule.wait.split_at(rule.wait.len() - 1);
        assert!(
            number.parse::<u64>().is_ok_and(|n| n > 0) && "smh".contains(unit),
            "{name}: {}",
            rule.wait
        );
        assert!(
            ["critical", "warning"].contains(&rule.texts["severity"].as_str()),
            "{name}"
        );
        assert!(rule.texts["summary"].len() > 15, "{name}");
        assert!(rule.texts["description"].len() > 40, "{name}");
        let runbook = &rule.texts["runbook"];
        let section = runbook
            .strip_prefix("README, ")
            .unwrap_or_else(|| panic!("{name}: {runbook}"));
        let section = section.split(':').next().unwrap_or_default();
        let section = section.trim_matches('"');
        assert!(
            sections.contains(&section),
            "{name}: no {section:?} in {sections:?}"
        );
    }
}

#[test]
fn prometheus_accepts_the_rules() {
    if !installed("promtool", &["--version"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("backfiller.yml");
    fs::write(&file, answer(&["alert-rules"])).expect("the rules can be written");
    let check = tool("promtool", &["check", "rules"], &file);
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{said}");

    // Each fires where it should, and only there.
    let cases = folder.path().join("cases.yml");
    fs::write(&cases, include_str!("fixtures/alerts.yml")).expect("the cases can be written");
    let test = tool("promtool", &["test", "rules"], &cases);
    let said = String::from_utf8_lossy(&test.stderr);
    assert!(test.status.success(), "{said}");
    for rule in rules() {
        let named = format!("alertname=\"{}\"", rule.name);
        assert!(
            include_str!("fixtures/alerts.yml").contains(&named),
            "no case of {}",
            rule.name
        );
    }
}

/// The names of all series of a worker.
fn exposed() -> BTreeSet<String> {
    let (redis, server) = ops::servers();
    let backfiller = ops::program(&redis, &server).start();
    let url = format!("{}metrics", Ops::of(&backfiller).url());
    // What Redis knows is there only when it has been asked.
    eventually("all series", || {
        let mut answer = ureq::get(&url).call().expect("an answer");
        let text = answer.body_mut().read_to_string().expect("text");
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let names = series.filter_map(|line| line.split(['{', ' ']).next());
        let names = names.map(str::to_owned).collect::<BTreeSet<_>>();
        names.contains("backfiller_queue_pending").then_some(names)
    })
}

#[test]
fn all_that_is_asked_for_is_exposed() {
    let exposed = exposed();
    for text in [
        answer(&["grafana-dashboard"]),
        answer(&["alert-rules"]),
        include_str!("fixtures/alerts.yml").to_owned(),
    ] {
        let asked = metrics_in(&text);
        assert!(asked.len() >= 9, "{asked:?}");
        for name in asked {
            assert!(exposed.contains(name), "{name} is not exposed");
        }
    }
    // The names that operators have on their dashboards already.
    let dashboard = answer(&["grafana-dashboard"]);
    let shown = metrics_in(&dashboard);
    for name in [
        "repos_processed_total",
        "repos_failed_total",
        "repos_dead_lettered_total",
        "records_extracted_total",
        "records_filtered_total",
        "retries_attempted_total",
        "repos_waiting",
        "repos_running",
        "output_stream_length",
        "car_fetch_errors_total",
        "car_parse_errors_total",
        "verification_errors_total",
    ] {
        assert!(
            shown.contains(format!("backfiller_{name}").as_str()),
            "{name} is not shown"
        );
    }
}

/// All names of metrics in a text: the program's own, and those of processes.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| {
            let prefixes = ["backfiller_", "process_"].iter();
            let mut rests = prefixes.filter_map(|prefix| word.strip_prefix(prefix));
            rests.any(|rest| !rest.is_empty())
        })
        .collect()
}

/// Whether a tool is there; where not, that is printed.
fn installed(name: &str, args: &[&str]) -> bool {
    let there = Command::new(name)
        .args(args)
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        // Not by println!, which is not shown of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped: {name} is not installed");
    }
    there
}

fn tool(name: &str, args: &[&str], file: &Path) -> Output {
    let output = Command::new(name).args(args).arg(file).output();
    output.unwrap_or_else(|error| panic!("{name}: {error}"))
}
